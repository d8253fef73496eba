"""Canaries: messages that mqttkit sends itself to see that a subscription delivers.

A broker may grant a subscription and deliver nothing: one of MQTT 3.1.1 that knows no shared subscriptions,
or one whose access list was changed. Only a message that comes back shows otherwise.
"""

from __future__ import annotations

import enum
import logging
import secrets
import threading

from mqttkit.client import MqttClient
from mqttkit.errors import MqttkitError, SubscriptionDenied
from mqttkit.messages import Message, Outcome, Subscription

logger = logging.getLogger(__name__)


class Song(enum.Enum):
    """What a canary showed."""

    HEARD = "heard"
    SILENT = "silent"
    """The broker took the canary and did not deliver it."""
    UNKNOWN = "unknown"
    """It could not be sent: not allowed to, or no connection."""


class Canary:
    """Send canaries on topics beneath a reserved prefix, and wait for them."""

    def __init__(self, prefix: str) -> None:
        self._topic = f"{prefix}canary/{secrets.token_hex(8)}"
        self._condition = threading.Condition()
        self._awaited = b""
        self._heard = False

    @property
    def topic(self) -> str:
        """Topic name of the canaries."""
        return self._topic

    def note(self, message: Message) -> None:
        """Take note of a message beneath the reserved prefix; in the network thread."""
        with self._condition:
            if message.topic == self._topic and message.payload == self._awaited:
                self._heard = True
                self._condition.notify_all()

    def sing(self, client: MqttClient, *, timeout: float) -> Song:
        """Publish one and wait for it up to `timeout` seconds."""
        with self._condition:
            self._awaited, self._heard = secrets.token_bytes(8), False
        receipt = client.publish(self._topic, self._awaited, qos=1)
        outcome = receipt.wait(timeout)
        if outcome is not Outcome.ACKNOWLEDGED:
            return Song.UNKNOWN
        with self._condition:
            self._condition.wait_for(lambda: self._heard, timeout)
            return Song.HEARD if self._heard else Song.SILENT

    def check_shared(self, client: MqttClient, *, timeout: float) -> None:
        """Raise SubscriptionDenied if a shared subscription of this broker delivers nothing."""
        shared = f"$share/canary-{secrets.token_hex(4)}/{self._topic}"
        try:
            client.subscribe(Subscription(shared, qos=1), timeout=timeout)
            song = self.sing(client, timeout=timeout)
        finally:
            if client.connected:
                _forget(client, shared, timeout)
        if song is Song.UNKNOWN:
            logger.warning("no right to publish %s: no proof that shared subscriptions deliver", self._topic)
        if song is Song.SILENT:
            raise SubscriptionDenied(
                shared,
                "the broker granted it and delivered nothing: it knows no shared subscriptions",
                code=0x9E,
                hint="Run one bridge without --group",
            )


def _forget(client: MqttClient, topic_filter: str, timeout: float) -> None:
    try:
        client.unsubscribe(topic_filter, timeout=timeout)
    except MqttkitError:  # the connection ended: a group of one that nobody publishes to does no harm
        return
