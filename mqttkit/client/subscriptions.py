"""What a client is subscribed to, and the broker's answers to SUBSCRIBE and UNSUBSCRIBE."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from paho.mqtt.enums import MQTTErrorCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from mqttkit.addresses import show_address
from mqttkit.client.connector import DENIED, V5, Connector
from mqttkit.errors import BrokerUnreachable, MqttkitError, SubscriptionDenied
from mqttkit.messages import Subscription
from mqttkit.topics import discouraged_character

ENDING_SECONDS = 1.0
"""How long the end of a connection waits for its cause to be known."""
_SUBACK_REASONS = {
    0x80: "the broker gives no reason",
    0x83: "implementation specific error",
    0x87: "not authorized",
    0x8F: "topic filter invalid",
    0x91: "packet identifier in use",
    0x97: "quota exceeded",
    0x9E: "shared subscriptions are not supported",
    0xA1: "subscription identifiers are not supported",
    0xA2: "wildcard subscriptions are not supported",
}


class Subscriptions:
    """Remembers what was granted, to be made again in a new session.

    `condition` is the client's; `alive` tells whether the connection of a number is still the one there is.
    """

    def __init__(self, paho: Connector, condition: threading.Condition, alive: Callable[[int], bool]) -> None:
        self._paho = paho
        self._condition = condition
        self._alive = alive
        self._kept: dict[str, Subscription] = {}
        self._answers: dict[int, list[int]] = {}
        self._again: dict[int, list[str]] = {}

    @property
    def topic_filters(self) -> list[str]:
        """What is subscribed to."""
        return list(self._kept)

    @property
    def settled(self) -> bool:
        """True where no SUBACK of a subscription made again is awaited."""
        return not self._again

    def subscribe(self, subscriptions: Sequence[Subscription], epoch: int, deadline: float) -> list[int]:
        """Subscribe on connection `epoch`, remember what is granted, return the codes of the SUBACK."""
        codes = self.ask(subscriptions, epoch, deadline)
        for subscription, code in zip(subscriptions, codes, strict=True):
            if code < DENIED:
                self._kept[subscription.topic_filter] = subscription
        return codes

    def ask(self, subscriptions: Sequence[Subscription], epoch: int, deadline: float) -> list[int]:
        """Subscribe and return the codes of the SUBACK; remember nothing."""
        return self._wait(self._send(subscriptions, patience=ENDING_SECONDS), epoch, deadline)

    def unsubscribe(self, topic_filters: Sequence[str], epoch: int, deadline: float) -> None:
        """Unsubscribe on connection `epoch`, and wait for the UNSUBACK."""
        for topic_filter in topic_filters:
            self._kept.pop(topic_filter, None)
        result, mid = self._paho.unsubscribe(list(topic_filters))
        if result != MQTTErrorCode.MQTT_ERR_SUCCESS or mid is None:
            raise self.no_answer("no connection to unsubscribe on", patience=ENDING_SECONDS)
        self._wait(mid, epoch, deadline)

    def make_again(self) -> None:
        """Make every subscription anew; only the network thread calls this, and `answered` gets the SUBACK."""
        self._again.clear()
        if self._kept:
            with contextlib.suppress(MqttkitError):  # the connection ended already: the next one subscribes
                self._again[self._send(tuple(self._kept.values()))] = list(self._kept)

    def answered(self, mid: int, codes: list[int]) -> list[tuple[str, int]]:
        """Take a SUBACK or UNSUBACK; return topic filter and code of each subscription that was made again."""
        again = self._again.pop(mid, None)
        if again is not None:
            return list(zip(again, codes, strict=False))
        with self._condition:
            self._answers[mid] = codes
            self._condition.notify_all()
        return []

    def forget_answers(self) -> None:
        """Another connection begins: packet identifiers mean nothing any more."""
        self._answers.clear()

    def no_answer(self, cause: str, *, patience: float = 0.0) -> MqttkitError:
        """Return the error of a connection that is not there, or does not answer.

        Wait up to `patience` seconds for the network thread to learn why: never ask that thread itself to.
        """
        with self._condition:
            self._condition.wait_for(lambda: self._paho.failure is not None, patience)
        return self._paho.failure or BrokerUnreachable(show_address(*self._paho.address), "mqtt", cause)

    def _send(self, subscriptions: Sequence[Subscription], *, patience: float = 0.0) -> int:
        if self._paho.protocol == V5:
            wanted: list[Any] = [(s.topic_filter, _options(s)) for s in subscriptions]
        else:
            wanted = [(s.topic_filter, s.qos) for s in subscriptions]
        for topic_filter in (s.topic_filter for s in subscriptions if discouraged_character(s.topic_filter)):
            self._paho.suspect(topic_filter)
        result, mid = self._paho.subscribe(wanted)
        if result != MQTTErrorCode.MQTT_ERR_SUCCESS or mid is None:
            raise self.no_answer("no connection to subscribe on", patience=patience)
        return mid

    def _wait(self, mid: int, epoch: int, deadline: float) -> list[int]:
        with self._condition:
            self._condition.wait_for(
                lambda: mid in self._answers or not self._alive(epoch), max(0.0, deadline - time.monotonic())
            )
            if mid in self._answers:
                return self._answers.pop(mid)
        raise self.no_answer("no SUBACK came", patience=0.0 if self._alive(epoch) else ENDING_SECONDS)


def denial(topic_filter: str, code: int) -> SubscriptionDenied:
    """Return the error for a topic filter that the broker denied with `code`."""
    return SubscriptionDenied(topic_filter, _reason(code), code=code)


def _reason(code: int) -> str:
    """Name a SUBACK's reason code (MQTT 5, 3.9.3)."""
    return _SUBACK_REASONS.get(code, f"reason code 0x{code:02x}")


def _options(subscription: Subscription) -> SubscribeOptions:
    return SubscribeOptions(
        qos=subscription.qos,
        noLocal=subscription.no_local,
        retainAsPublished=subscription.retain_as_published,
        retainHandling=subscription.retain_handling,
    )
