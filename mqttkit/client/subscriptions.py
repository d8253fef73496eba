"""The client's subscriptions, and the broker's answers to SUBSCRIBE and UNSUBSCRIBE."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from paho.mqtt.enums import MQTTErrorCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from mqttkit.addresses import show_address
from mqttkit.client.connection import Connection
from mqttkit.client.packets.reason_codes import DENIED
from mqttkit.client.receiving.unexpected import UnexpectedPacket
from mqttkit.client.reconnect import MQTT_5, ReconnectPolicy
from mqttkit.errors import BrokerUnreachable, MqttkitError, SubscriptionDenied
from mqttkit.messages import Subscription
from mqttkit.topics import discouraged_character

log = logging.getLogger(__name__)

NEVER = float("inf")
RETRIES = (0.5, 1.0, 2.0, 4.0, 8.0)
"""Seconds before each new attempt to subscribe, if the broker denies without a reason what it granted before."""
CAUSE_SECONDS = 1.0
"""How long a caller waits to learn why the connection ended."""
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
_SUBACK_HINTS = {
    0x9E: "Subscribe without $share/…, and give each client its own topics",
    0xA2: "Subscribe to each topic by its name",
}


class Subscriptions:
    """Remembers what the broker granted, to subscribe again in a new session.

    `condition` is the client's. `is_current` returns whether the connection of a number is still up. `remember_topic`
    gets topic filters over which a broker may close the connection.
    """

    def __init__(
        self,
        connection: Connection,
        policy: ReconnectPolicy,
        condition: threading.Condition,
        *,
        is_current: Callable[[int], bool],
        remember_topic: Callable[[str], None],
    ) -> None:
        self._connection = connection
        self._policy = policy
        self._condition = condition
        self._is_current = is_current
        self._remember_topic = remember_topic
        self._kept: dict[str, Subscription] = {}
        self._pending: dict[int, int] = {}
        """How many codes the answer to each packet identifier must have."""
        self._answers: dict[int, list[int]] = {}
        self._again: dict[int, list[str]] = {}
        self._missing: set[str] = set()
        """Topic filters that were granted, but that the session of this connection may not have."""
        self._refused: dict[str, int] = {}
        """How often the broker has denied, without a reason, what it had granted before."""
        self.retry_at = NEVER
        """When to ask for those again, on the monotonic clock."""

    @property
    def topic_filters(self) -> list[str]:
        """The topic filters subscribed to."""
        return list(self._kept)

    @property
    def settled(self) -> bool:
        """True unless a SUBACK for a repeated subscription is awaited."""
        return not self._again and not self._refused

    def subscribe(self, subscriptions: Sequence[Subscription], number: int, deadline: float) -> list[int]:
        """Subscribe on connection `number`, remember what is granted, and return the codes of the SUBACK.

        Raises SubscriptionDenied for the first filter that the broker denies, or of a kind that it does not have.
        """
        names = [subscription.topic_filter for subscription in subscriptions]
        _raise_denied(names, [self._connection.outbox.broker.denial(name) for name in names])
        codes = self.ask(subscriptions, number, deadline)
        for subscription, code in zip(subscriptions, codes, strict=True):
            if code < DENIED:
                self._kept[subscription.topic_filter] = subscription
                self._missing.discard(subscription.topic_filter)
        _raise_denied(names, codes)
        return codes

    def ask(self, subscriptions: Sequence[Subscription], number: int, deadline: float) -> list[int]:
        """Subscribe and return the codes of the SUBACK; remember nothing."""
        with self._condition:
            mid = self._send(subscriptions, patience=CAUSE_SECONDS)
            self._expect(mid, len(subscriptions))
        return self._wait(mid, number, deadline)

    def unsubscribe(self, topic_filters: Sequence[str], number: int, deadline: float) -> None:
        """Unsubscribe on connection `number` and wait for the UNSUBACK."""
        for topic_filter in topic_filters:
            self._kept.pop(topic_filter, None)
        with self._condition:
            result, mid = self._connection.unsubscribe_from(list(topic_filters))
            if result != MQTTErrorCode.MQTT_ERR_SUCCESS or mid is None:
                raise self.no_answer("no connection to unsubscribe on", patience=CAUSE_SECONDS)
            self._expect(mid, 0)
        self._wait(mid, number, deadline)

    def subscribe_again(self, *, session_present: bool) -> None:
        """A connection was accepted: repeat every subscription, or those that the session may not have.

        Only the network thread calls this, and `answered` gets the SUBACK.
        """
        self._again.clear()
        self._refused.clear()
        self.retry_at = NEVER
        if not session_present:
            self._missing = set(self._kept)
        self._repeat([each for each in list(self._kept) if each in self._missing])

    def retry(self) -> None:
        """Repeat the subscriptions that the broker denied without a reason; only the network thread calls this."""
        self.retry_at = NEVER
        self._repeat([each for each in self._refused if each in self._kept])

    def _repeat(self, topic_filters: list[str]) -> None:
        if topic_filters:
            with contextlib.suppress(MqttkitError):  # the connection ended already: the next one subscribes
                self._again[self._send([self._kept[each] for each in topic_filters])] = topic_filters

    def answered(self, mid: int, codes: list[int]) -> list[tuple[str, int]]:
        """Handle a SUBACK or UNSUBACK; return topic filter and code of each repeated subscription in it.

        Raise UnexpectedPacket unless a SUBACK has one code for each filter. Ignore answers that no caller waits for.
        """
        again = self._again.pop(mid, None)
        with self._condition:
            self._connection.unanswered.pop(mid, None)  # not before the caller that sent it has registered
            expected = len(again) if again is not None else self._pending.get(mid)
            if expected and expected != len(codes):
                raise UnexpectedPacket(f"SUBACK has {len(codes)} reason codes for {expected} topic filters")
            if again is not None:
                return self._final(dict(zip(again, codes, strict=True)))
            if expected is not None:
                self._answers[mid] = codes
                self._condition.notify_all()
        return []

    def _final(self, codes: dict[str, int]) -> list[tuple[str, int]]:
        """Return the codes that are final, and plan to repeat the other subscriptions.

        A cluster that elects a leader denies with 0x80, and grants a second later.
        """
        again = [each for each, code in codes.items() if code == DENIED and self._refused.get(each, 0) < len(RETRIES)]
        for each in codes:
            if each in again:
                self._refused[each] = self._refused.get(each, 0) + 1
            else:
                self._refused.pop(each, None)
                self._missing.discard(each)
        if again:
            delay = RETRIES[max(self._refused[each] for each in again) - 1]
            log.warning(
                "the broker denies %d subscriptions that it granted before; asking again in %g s", len(again), delay
            )
            self.retry_at = time.monotonic() + delay
        return [(each, code) for each, code in codes.items() if each not in again]

    def forget_answers(self) -> None:
        """A new connection begins: earlier packet identifiers mean nothing any more."""
        with self._condition:
            self._answers.clear()
            self._pending.clear()

    def no_answer(self, cause: str, *, patience: float = 0.0) -> MqttkitError:
        """Return the error for a connection that is down or does not answer.

        Wait up to `patience` seconds for the network thread to learn why: 0 in that thread itself.
        """
        with self._condition:
            self._condition.wait_for(lambda: self._policy.failure is not None, patience)
        return self._policy.failure or BrokerUnreachable(show_address(*self._policy.address), "mqtt", cause)

    def _send(self, subscriptions: Sequence[Subscription], *, patience: float = 0.0) -> int:
        if self._policy.version == MQTT_5:
            wanted: list[Any] = [(s.topic_filter, _options(s)) for s in subscriptions]
        else:
            wanted = [(s.topic_filter, s.qos) for s in subscriptions]
        for subscription in subscriptions:
            if discouraged_character(subscription.topic_filter):
                self._remember_topic(subscription.topic_filter)
        result, mid = self._connection.subscribe_to(wanted)
        if result != MQTTErrorCode.MQTT_ERR_SUCCESS or mid is None:
            raise self.no_answer("no connection to subscribe on", patience=patience)
        return mid

    def _expect(self, mid: int, codes: int) -> None:
        """Register a caller that waits for an answer; its identifier is not used again before the answer comes."""
        self._pending[mid] = codes
        self._connection.unanswered[mid] = None

    def _wait(self, mid: int, number: int, deadline: float) -> list[int]:
        with self._condition:
            try:
                self._condition.wait_for(
                    lambda: mid in self._answers or not self._is_current(number), max(0.0, deadline - time.monotonic())
                )
                if mid in self._answers:
                    return self._answers.pop(mid)
            finally:
                self._pending.pop(mid, None)
        raise self.no_answer("no answer to SUBSCRIBE", patience=0.0 if self._is_current(number) else CAUSE_SECONDS)


def denial(topic_filter: str, code: int) -> SubscriptionDenied:
    """Return the error for a topic filter that the broker denied with `code` (MQTT 5, 3.9.3)."""
    reason = _SUBACK_REASONS.get(code, f"reason code 0x{code:02x}")
    return SubscriptionDenied(topic_filter, reason, code=code, hint=_SUBACK_HINTS.get(code, ""))


def _raise_denied(topic_filters: Sequence[str], codes: Sequence[int]) -> None:
    for topic_filter, code in zip(topic_filters, codes, strict=True):
        if code >= DENIED:
            raise denial(topic_filter, code)


def _options(subscription: Subscription) -> SubscribeOptions:
    return SubscribeOptions(
        qos=subscription.qos,
        noLocal=subscription.no_local,
        retainAsPublished=subscription.retain_as_published,
        retainHandling=subscription.retain_handling,
    )
