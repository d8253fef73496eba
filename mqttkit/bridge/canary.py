"""Canaries: messages that the bridge sends to itself to check that a subscription delivers.

A broker may grant a subscription and deliver nothing: a 3.1.1 broker without shared subscriptions does, and so
does a broker whose access list has changed. Only a message that arrives proves that a subscription works.
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


class CanaryResult(enum.Enum):
    """What happened to a canary."""

    ARRIVED = "arrived"
    MISSING = "missing"
    """The broker accepted the canary and did not deliver it."""
    NOT_SENT = "not sent"
    """The broker denied it, or the connection ended."""


class Canary:
    """Send canaries to one topic under a reserved prefix, and wait for them."""

    def __init__(self, prefix: str) -> None:
        self._topic = f"{prefix}canary/{secrets.token_hex(8)}"
        self._condition = threading.Condition()
        self._expected = b""
        self._arrived = False

    @property
    def topic(self) -> str:
        """Topic name of the canaries."""
        return self._topic

    def receive(self, message: Message) -> None:
        """Check whether a message under the reserved prefix is the canary; called in the network thread."""
        with self._condition:
            if message.topic == self._topic and message.payload == self._expected:
                self._arrived = True
                self._condition.notify_all()

    def send(self, client: MqttClient, *, timeout: float) -> CanaryResult:
        """Publish a canary and wait up to `timeout` seconds for it to arrive."""
        with self._condition:
            self._expected, self._arrived = secrets.token_bytes(8), False
        receipt = client.publish(self._topic, self._expected, qos=1)
        if receipt.wait(timeout) is not Outcome.ACKNOWLEDGED:
            return CanaryResult.NOT_SENT
        with self._condition:
            self._condition.wait_for(lambda: self._arrived, timeout)
            return CanaryResult.ARRIVED if self._arrived else CanaryResult.MISSING

    def check_shared(self, client: MqttClient, *, timeout: float) -> None:
        """Raise SubscriptionDenied if shared subscriptions deliver nothing on this broker."""
        shared = f"$share/canary-{secrets.token_hex(4)}/{self._topic}"
        try:
            client.subscribe(Subscription(shared, qos=1), timeout=timeout)
            result = self.send(client, timeout=timeout)
        finally:
            if client.connected:
                _unsubscribe(client, shared, timeout)
        if result is CanaryResult.NOT_SENT:
            logger.warning(
                "cannot publish to %s: shared subscriptions are not checked; allow this topic for the bridge's user",
                self._topic,
            )
        if result is CanaryResult.MISSING and client.connected:
            raise SubscriptionDenied(
                shared,
                "the broker granted it but delivered nothing: it does not support shared subscriptions",
                code=0x9E,
                hint="Run one bridge without --group",
            )


def _unsubscribe(client: MqttClient, topic_filter: str, timeout: float) -> None:
    try:
        client.unsubscribe(topic_filter, timeout=timeout)
    except MqttkitError as error:  # harmless: no other client publishes to this topic
        logger.debug("cannot unsubscribe from %s: %s", topic_filter, error)
