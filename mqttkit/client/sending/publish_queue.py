"""The side of the outbox that callers see: a bounded queue of publishes, and the count of their outcomes. Pure."""

from __future__ import annotations

import collections
import threading
from collections import Counter
from itertools import accumulate

from mqttkit.client.sending.block import BlockReceipt, BlockSlice
from mqttkit.client.sending.receipt import Receipt
from mqttkit.messages import Outcome
from mqttkit.settings import LimitSettings

MAX_PACKET = 268_435_455
"""Largest remaining length (MQTT 5, 1.5.5)."""
FIXED_BYTES = 3
"""Packet identifier and an empty property section."""
NOT_CONNECTED = "not connected"
TOO_LARGE = "larger than MQTT allows"


class PublishQueue:
    """Publishes that wait, bounded in number and in bytes. A publish counts until its outcome is known."""

    def __init__(self, limits: LimitSettings, *, keeps_session: bool = False) -> None:
        """If the session is kept, publishes of QoS 1 and 2 wait for the next connection."""
        self.limits = limits
        self.counts: Counter[Outcome] = Counter()
        self.dropped: Counter[str] = Counter()
        """Dropped publishes by cause."""
        self.unresolved = 0
        """Publishes without an outcome."""
        self._accepting = self._closed = False
        self._bytes = 0
        self._queue: collections.deque[Receipt | BlockSlice] = collections.deque()
        self._keeps_session = keeps_session
        self._lock = threading.Lock()
        self._room = threading.Condition(self._lock)
        self.condition = threading.Condition(self._lock)

    # Any thread may call what follows.

    def put(
        self, topic: bytes, payload: bytes, qos: int, *, retain: bool, properties: bytes, wait: float = 0.0
    ) -> Receipt:
        """Queue a publish, waiting up to `wait` seconds for room; return its receipt, a dropped one without room.

        `topic` and `properties` are as they go on the wire, see `Receipt`. An empty queue has room for anything.
        """
        size = len(topic) + len(payload) + len(properties)
        receipt = Receipt(self.condition, size, topic, payload, qos, retain, properties)
        kept = False
        with self._lock:
            if self.unresolved >= self.limits.max_queued_messages or self._bytes + size > self.limits.max_queued_bytes:
                kept = self._wait_for_room(size, wait) and self._keeps_session and qos > 0
            cause = self._refusal(size, kept)
            if cause:
                self._drop(receipt, cause)
            else:
                self.unresolved += 1
                self._bytes += size
                self._queue.append(receipt)
        return receipt

    def put_block(self, block: BlockReceipt, wait: float = 0.0) -> str:
        """Queue as many of the block's messages as have room, waiting up to `wait` seconds for room for one.

        Returns why none was queued; empty if some were. Messages that no queue takes are dropped.
        """
        with self._lock:
            start, kept = block.queued, False
            size = block.size(start, start + 1)
            if self.unresolved >= self.limits.max_queued_messages or self._bytes + size > self.limits.max_queued_bytes:
                kept = self._wait_for_room(size, wait) and self._keeps_session and block.qos > 0
            cause = self._refusal(size, kept)
            if cause and cause != TOO_LARGE:
                return cause
            block.queued = stop = start + 1 if cause else self._fitting(block, start)
            if cause:
                self._drop_from(block, start, stop, cause)
            else:
                self.unresolved += stop - start
                self._bytes += block.size(start, stop)
                self._queue.append(BlockSlice(block, start, stop))
        return ""

    def _fitting(self, block: BlockReceipt, start: int) -> int:
        """Return up to which message of the block there is room; for one at least."""
        stop = min(len(block), start + self.limits.max_queued_messages - self.unresolved)
        room = self.limits.max_queued_bytes - self._bytes
        if block.largest + block.fixed <= MAX_PACKET - FIXED_BYTES and block.size(start, stop) <= room:
            return max(stop, start + 1)
        sizes = [len(payload) + block.fixed for payload in block.payloads[start:stop]]
        fits = 0
        for size, total in zip(sizes, accumulate(sizes), strict=True):
            if total > room or size > MAX_PACKET - FIXED_BYTES:
                break
            fits += 1
        return start + max(fits, 1)

    def refuse(self, cause: str, topic: bytes = b"") -> Receipt:
        """Return the receipt of a publish that is dropped immediately."""
        receipt = Receipt(self.condition, topic=topic)
        with self._lock:
            self._drop(receipt, cause)
        return receipt

    def refuse_rest(self, block: BlockReceipt, cause: str) -> None:
        """Drop the messages of a block that are not queued."""
        with self._lock:
            start, block.queued = block.queued, len(block)
            self._drop_from(block, start, len(block), cause)

    def flush(self, timeout: float) -> bool:
        """Wait up to `timeout` seconds until nothing is unresolved."""
        with self._lock:
            return self.condition.wait_for(lambda: self.unresolved == 0, timeout)

    # Under the lock.

    def _refusal(self, size: int, kept: bool) -> str:
        """Return why a publish cannot be queued; `kept` if it waited for room while the session is kept."""
        if not self._accepting and not (kept and not self._closed):
            return "the client is closed" if self._closed else NOT_CONNECTED
        if size > MAX_PACKET - FIXED_BYTES:
            return TOO_LARGE
        full = self.unresolved >= self.limits.max_queued_messages or self._bytes + size > self.limits.max_queued_bytes
        return "queue full" if full and self.unresolved else ""

    def _wait_for_room(self, size: int, wait: float) -> bool:
        """Wait until a full queue is half empty, so that the caller then runs for a while; return whether it waited.

        The end of a connection ends the wait, unless the session is kept: then there is room once the next one sends.
        """
        limits = self.limits
        if wait <= 0 or not self.unresolved or not self._accepting:
            return False
        self._room.wait_for(
            lambda: (
                (
                    self.unresolved <= limits.max_queued_messages // 2
                    and self._bytes + size <= max(limits.max_queued_bytes // 2, size)
                )
                or self._closed
                or not (self._accepting or self._keeps_session)
            ),
            wait,
        )
        return True

    def _drop(self, receipt: Receipt, cause: str) -> None:
        receipt.reason, receipt.payload = cause, b""
        receipt.outcome = Outcome.DROPPED
        self._count_dropped(1, cause)

    def _drop_from(self, block: BlockReceipt, start: int, stop: int, cause: str) -> None:
        if stop > start:
            block.resolve(start, stop, Outcome.DROPPED, cause)
            self._count_dropped(stop - start, cause)
            self.condition.notify_all()

    def _count_dropped(self, count: int, cause: str) -> None:
        self.counts[Outcome.DROPPED] += count
        self.dropped[cause] += count

    def _settle(self, count: int, freed: int, outcome: Outcome, reason: str = "") -> None:
        """Count publishes whose outcome has become known, free their room, and wake the waiting threads."""
        self.unresolved -= count
        self._bytes -= freed
        self.counts[outcome] += count
        if outcome is Outcome.DROPPED:
            self.dropped[reason] += count
        self.condition.notify_all()
        if self.unresolved <= self.limits.max_queued_messages // 2:
            self._room.notify_all()
