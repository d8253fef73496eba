"""Delivery of messages: each one is followed to its outcome, and sent again if the connection is lost."""

from __future__ import annotations

import logging
import time
from collections import Counter, deque
from collections.abc import Callable
from typing import NamedTuple

from mqttkit.client import MqttClient, Receipt
from mqttkit.messages import Outcome
from mqttkit.scan_publisher.hand_over import TOO_OLD
from mqttkit.scan_publisher.totals import SHUTDOWN

log = logging.getLogger(__name__)

UNRESOLVED = 2_000
"""Messages without an outcome at most: those beyond wait in the hand-over queue, which drops the oldest."""
PROBE_SECONDS = 60.0
"""Seconds between two probes at QoS 0."""
DENIED = "denied by the broker"
_TRANSIENT = ("not connected", "queue full")
"""Reasons of the client for which a message is published again."""


class Outgoing(NamedTuple):
    """One message, and when its advertisement arrived on the monotonic clock."""

    arrived: float
    topic: str
    payload: bytes


class Delivery:
    """Publishes messages in order with at most UNRESOLVED of them without an outcome. One thread uses it.

    A message that the client lost with the connection is published again, unless it is older than `max_age`. At QoS 0
    no broker reports a denial, so every PROBE_SECONDS one message is published at QoS 1. If the broker denies it, the
    messages up to the next probe count as denied.
    """

    def __init__(
        self,
        client: MqttClient,
        *,
        qos: int,
        max_age: float = float("inf"),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.published = 0
        self.dropped: Counter[str] = Counter()
        self._client = client
        self._qos = qos
        self._max_age = max_age
        self._clock = clock
        self._pending: deque[tuple[Receipt, Outgoing]] = deque()
        self._again: deque[Outgoing] = deque()
        self._limit = min(UNRESOLVED, max(1, client.settings.limits.max_queued_messages // 2))
        self._next_probe = 0.0
        self._probe: Receipt | None = None
        self._denied = False

    def __len__(self) -> int:
        return len(self._pending) + len(self._again)

    @property
    def room(self) -> int:
        """Number of messages that `send` accepts now."""
        return max(0, self._limit - len(self)) if self._client.connected else 0

    def send(self, message: Outgoing) -> None:
        """Publish a message. Call it only if there is room."""
        qos = self._qos or int(self._is_probe_due())
        receipt = self._client.publish(message.topic, message.payload, qos=qos)
        if qos and not self._qos:
            self._probe = receipt
        self._pending.append((receipt, message))

    def send_again(self) -> bool:
        """Publish the messages that a connection lost; return whether there were any. They always have room."""
        messages = list(self._again)
        self._again.clear()
        for message in messages:
            self.send(message)
        return bool(messages)

    def wait(self, seconds: float) -> None:
        """Wait for a connection or for the next outcome."""
        if self._pending:
            self._pending[0][0].wait(seconds)
        else:
            self._client.wait_connected(seconds)

    def settle(self) -> None:
        """Count the messages whose outcome is known, in order; drop those to publish again that are too old."""
        pending = self._pending
        while pending and pending[0][0].outcome is not None:
            self._count(*pending.popleft())
        oldest = self._clock() - self._max_age
        while self._again and self._again[0].arrived < oldest:
            self._again.popleft()
            self.dropped[TOO_OLD] += 1

    def abandon(self) -> None:
        """Count every message that is not published as lost. Call it after the client is closed."""
        self.settle()
        self.dropped[SHUTDOWN] += len(self)
        self._pending.clear()
        self._again.clear()

    def _count(self, receipt: Receipt, message: Outgoing) -> None:
        outcome = receipt.outcome
        if receipt is self._probe:
            self._note_probe(receipt, message)
        if outcome is Outcome.LOST or (outcome is Outcome.DROPPED and receipt.reason in _TRANSIENT):
            self._again.append(message)
        elif outcome is Outcome.DROPPED:
            self.dropped[receipt.reason] += 1
        elif outcome is Outcome.DENIED or (outcome is Outcome.SENT and self._denied):
            self.dropped[DENIED] += 1
        else:
            self.published += 1
            log.debug("published %s", message.topic)

    def _is_probe_due(self) -> bool:
        now = self._clock()
        if self._probe is not None or now < self._next_probe:
            return False
        self._next_probe = now + PROBE_SECONDS
        return True

    def _note_probe(self, receipt: Receipt, message: Outgoing) -> None:
        self._probe = None
        if receipt.outcome is Outcome.DENIED and not self._denied:
            log.warning(
                "the broker denies publishing to %s: %s. At QoS 0 it discards such messages without an error",
                message.topic,
                receipt.reason or f"reason code 0x{receipt.code:02x}",
            )
        if receipt.outcome in (Outcome.DENIED, Outcome.ACKNOWLEDGED):
            self._denied = receipt.outcome is Outcome.DENIED
        else:
            self._next_probe = 0.0
