"""Delivery of messages: each one is followed to its outcome, and sent again if the connection is lost."""

from __future__ import annotations

import logging
import time
from collections import Counter, deque
from collections.abc import Callable

from mqttkit.client import MqttClient, Receipt
from mqttkit.messages import Outcome
from mqttkit.scan_publisher.hand_over import TOO_OLD
from mqttkit.scan_publisher.totals import SHUTDOWN

log = logging.getLogger(__name__)

UNRESOLVED = 2_000
"""Messages without an outcome at most: those beyond wait in the hand-over queue, which drops the oldest."""
LAG = 1.0
"""Seconds for which the oldest message may be without an outcome; then the broker is too slow, and the others wait."""
PROBE_SECONDS = 60.0
"""Seconds between two probes at QoS 0."""
DENIED = "denied by the broker"
_TRANSIENT = ("not connected", "queue full")
"""Reasons of the client for which a message is published again."""


Outgoing = tuple[float, str, bytes]
"""When an advertisement arrived on the monotonic clock, its topic and its payload."""


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
        self._pending: deque[tuple[Receipt, Outgoing, float]] = deque()
        """Receipt, message, and when it was sent."""
        self._again: deque[Outgoing] = deque()
        self._limit = min(UNRESOLVED, max(1, client.settings.limits.max_queued_messages // 2))
        self._lag = LAG if max_age < float("inf") else max_age
        self._next_probe = clock() + PROBE_SECONDS
        self._probe_due = not qos
        self._probe: Receipt | None = None
        self._debug = log.isEnabledFor(logging.DEBUG)
        self._denied = False

    def __len__(self) -> int:
        return len(self._pending) + len(self._again)

    @property
    def room(self) -> int:
        """Number of messages that `send` accepts now."""
        late = bool(self._pending) and self._clock() - self._pending[0][2] > self._lag
        return max(0, self._limit - len(self)) if self._client.connected and not late else 0

    def send(self, message: Outgoing) -> None:
        """Publish a message. Call it only if there is room."""
        _, topic, payload = message
        if self._probe_due:
            receipt = self._probe = self._client.publish(topic, payload, qos=1)
            self._probe_due = False
        else:
            receipt = self._client.publish(topic, payload, qos=self._qos)
        self._pending.append((receipt, message, self._clock()))

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
            receipt, message, _ = pending.popleft()
            self._count(receipt, message)
        now = self._clock()
        if not self._qos and self._probe is None and not self._probe_due and now >= self._next_probe:
            self._probe_due = True
            self._next_probe = now + PROBE_SECONDS
        oldest = now - self._max_age
        while self._again and self._again[0][0] < oldest:
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
            self._note_probe(receipt, message[1])
        if outcome is Outcome.ACKNOWLEDGED or (outcome is Outcome.SENT and not self._denied):
            self.published += 1
            if self._debug:
                log.debug("published %s", message[1])
        elif outcome is Outcome.LOST or (outcome is Outcome.DROPPED and receipt.reason in _TRANSIENT):
            self._again.append(message)
        else:
            self.dropped[receipt.reason if outcome is Outcome.DROPPED else DENIED] += 1

    def _note_probe(self, receipt: Receipt, topic: str) -> None:
        self._probe = None
        if receipt.outcome is Outcome.DENIED and not self._denied:
            log.warning(
                "the broker denies publishing to %s: %s. At QoS 0 it discards such messages without an error",
                topic,
                receipt.reason or f"reason code 0x{receipt.code:02x}",
            )
        if receipt.outcome in (Outcome.DENIED, Outcome.ACKNOWLEDGED):
            self._denied = receipt.outcome is Outcome.DENIED
        else:
            self._next_probe = 0.0
