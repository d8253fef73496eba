"""Publishes that wait or are in flight: a bounded queue and the send window. Pure.

Any thread puts publishes in; the network thread takes batches out and reports what was sent and acknowledged. A publish
counts against the bounds from `put` until its outcome is known.
"""

from __future__ import annotations

import collections
import contextlib
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterable

from mqttkit.client.packets.receipt import Receipt
from mqttkit.client.packets.send_limits import BrokerLimits
from mqttkit.client.packets.splitter import MAX_FAST_MID
from mqttkit.messages import Outcome
from mqttkit.settings import LimitSettings

BATCH_BYTES = 256 * 1024
"""A batch ends before the packet that would make it larger than this."""
MAX_CACHED_LENGTHS = 4_096
MAX_PACKET = 268_435_455
"""Largest remaining length (MQTT 5, 1.5.5)."""
FIXED_BYTES = 3
"""Packet identifier and an empty property section."""
ANY_PUBLISH = BrokerLimits()
REASONS = {
    0x10: "No matching subscribers",
    0x80: "Unspecified error",
    0x83: "Implementation specific error",
    0x87: "Not authorized",
    0x90: "Topic name invalid",
    0x91: "Packet identifier in use",
    0x97: "Quota exceeded",
    0x99: "Payload format invalid",
}
"""Reason codes of PUBACK and PUBREC (MQTT 5, 3.4.2.1)."""


class PacketBatch:
    """Packets joined for one send."""

    __slots__ = ("data", "items", "parts", "zeros")

    def __init__(self) -> None:
        self.items: list[Receipt | None] = []
        """The publish that each part is of; None for acknowledgements."""
        self.parts: list[bytes] = []
        self.zeros = 0
        """How many of the items are QoS 0."""
        self.data = b""

    def join(self) -> PacketBatch:
        """Join the parts, without a copy if there is only one."""
        self.data = self.parts[0] if len(self.parts) == 1 else b"".join(self.parts)
        return self


class Outbox:
    """Bounded queue of publishes and the window of those under way."""

    def __init__(self, limits: LimitSettings, *, keeps_session: bool = False) -> None:
        """If the session is kept, publishes of QoS 1 and 2 wait for the next connection."""
        self.limits = limits
        self.counts: Counter[Outcome] = Counter()
        self.dropped: Counter[str] = Counter()
        """Dropped publishes by cause."""
        self.unresolved = 0
        """Publishes without an outcome."""
        self.window = limits.max_inflight
        """QoS 1 and 2 publishes that may be in flight at a time."""
        self.exact_window = limits.max_inflight
        """Of those, QoS 2."""
        self.broker = BrokerLimits()
        """What the broker takes; `resume` sets it."""
        self.acknowledgements: collections.deque[bytes] = collections.deque()
        """PUBACK packets to send."""
        self.flights: dict[int, Receipt] = {}
        """QoS 1 and 2 publishes in flight, by packet identifier."""
        self.publish_qos2: Callable[[Receipt], int] = _no_qos2
        """Hands a QoS 2 publish to paho; returns its packet identifier."""
        self.on_resolved: Callable[[], None] | None = None
        """Called after each batch of publishes whose outcome became known, without a lock."""
        self._accepting = self._restricted = False
        self._bytes = 0
        self._queue: collections.deque[Receipt] = collections.deque()
        self._held: collections.deque[Receipt] = collections.deque()
        self._resend: collections.deque[tuple[int, Receipt]] = collections.deque()
        self._mid = 0
        self._lengths: dict[int, bytes] = {}
        self._keeps_session = keeps_session
        self._closed = False
        self._owner = threading.RLock()
        """Held while a thread moves publishes between the queues: the network thread, or one that closes the client."""
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

    def refuse(self, cause: str, topic: bytes = b"") -> Receipt:
        """Return the receipt of a publish that is dropped immediately."""
        receipt = Receipt(self.condition, topic=topic)
        with self._lock:
            self._drop(receipt, cause)
        return receipt

    def flush(self, timeout: float) -> bool:
        """Wait up to `timeout` seconds until nothing is unresolved."""
        with self._lock:
            return self.condition.wait_for(lambda: self.unresolved == 0, timeout)

    def _refusal(self, size: int, kept: bool) -> str:
        """Return why a publish cannot be queued; `kept` if it waited for room while the session is kept."""
        if not self._accepting and not (kept and not self._closed):
            return "the client is closed" if self._closed else "not connected"
        if size > MAX_PACKET - FIXED_BYTES:
            return "larger than MQTT allows"
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
        self.counts[Outcome.DROPPED] += 1
        self.dropped[cause] += 1

    # Only the network thread calls what follows.

    def ready(self) -> bool:
        """Return whether `take` may find something."""
        if self._queue or self.acknowledgements:
            return True
        if self._resend:
            return self._window_left() > 0
        return bool(self._held) and not self._must_wait(self._held[0], self._window_left())

    def take(self, *, v5: bool) -> PacketBatch | None:
        """Return the next packets to send, about BATCH_BYTES of them or one larger one; None for none."""
        with self._owner:
            return self._take(v5)

    def _take(self, v5: bool) -> PacketBatch | None:
        batch = PacketBatch()
        size = self._take_acknowledgements(batch)
        while self._resend and self._window_left() > 0 and size < BATCH_BYTES:
            mid, item = self._resend.popleft()
            if self._restricted and self._refused(item, v5=v5):
                self.flights.pop(mid, None)
                continue
            size += self._append(batch, item, mid, v5=v5, dup=True)
        for queue in (self._held, self._queue):
            size = self._take_from(queue, batch, size, v5)
        return batch.join() if batch.parts else None

    def take_acknowledgements(self) -> bytes:
        """Return the acknowledgements that wait, joined. Any thread may call it."""
        taken: list[bytes] = []
        with contextlib.suppress(IndexError):
            while self.acknowledgements:
                taken.append(self.acknowledgements.popleft())
        return b"".join(taken)

    def _take_acknowledgements(self, batch: PacketBatch) -> int:
        packets = self.take_acknowledgements()
        if packets:
            batch.parts.append(packets)
            batch.items.append(None)
        return len(packets)

    def _take_from(self, queue: collections.deque[Receipt], batch: PacketBatch, size: int, v5: bool) -> int:
        """Move publishes from a queue into the batch; QoS 1 and 2 wait in `_held` while the window is full."""
        left, held = self._window_left(), self._held
        while queue and size < BATCH_BYTES:
            item = queue[0]
            if self._restricted and self._refused(item, v5=v5):
                queue.popleft()
                continue
            if size and size + len(item.payload) > BATCH_BYTES:
                return BATCH_BYTES
            if item.qos and ((held and queue is not held) or self._must_wait(item, left)):
                if queue is held:
                    return size
                held.append(queue.popleft())
                continue
            queue.popleft()
            mid = 0
            if item.qos:
                left -= 1
                if item.qos == 2:
                    self.flights[self.publish_qos2(item)] = item
                    continue
                mid = self._next_mid()
                self.flights[mid] = item
            size += self._append(batch, item, mid, v5=v5)
        return size

    def _refused(self, item: Receipt, *, v5: bool) -> bool:
        """Drop a publish that the broker does not take; return whether it was one."""
        size = len(item.topic) + len(item.payload) + (2 if item.qos else 0) + (len(item.properties) or 1 if v5 else 0)
        cause = self.broker.refusal(item.qos, item.retain, len(self._encode_length(0, size)) + size)
        if cause:
            self._resolve((item,), Outcome.DROPPED, cause)
        return bool(cause)

    def _append(self, batch: PacketBatch, item: Receipt, mid: int, *, v5: bool, dup: bool = False) -> int:
        """Encode a publish into the batch (MQTT 5, 3.3); return its size."""
        first = 0x30 | dup << 3 | item.qos << 1 | item.retain
        middle = (item.properties or b"\0") if v5 else b""
        if mid:
            middle = mid.to_bytes(2, "big") + middle
        length = len(item.topic) + len(middle) + len(item.payload)
        head = self._lengths.get(first << 28 | length) or self._encode_length(first, length)
        packet = head + item.topic + middle + item.payload
        batch.parts.append(packet)
        batch.items.append(item)
        batch.zeros += not mid
        return len(packet)

    def _encode_length(self, first: int, length: int) -> bytes:
        """Return the fixed header: `first` and the remaining length (MQTT 5, 2.1.4)."""
        head, rest = bytearray((first,)), length
        while rest > 127:
            head.append(rest & 127 | 128)
            rest >>= 7
        head.append(rest)
        if len(self._lengths) >= MAX_CACHED_LENGTHS:
            self._lengths.clear()
        encoded = self._lengths[first << 28 | length] = bytes(head)
        return encoded

    def _window_left(self) -> int:
        return self.window - len(self.flights) + len(self._resend)

    def _must_wait(self, item: Receipt, left: int) -> bool:
        """Return whether a QoS 1 or 2 publish would exceed its window."""
        if left <= 0 or item.qos == 1:
            return left <= 0
        return sum(other.qos == 2 for other in self.flights.values()) >= self.exact_window

    def _next_mid(self) -> int:
        """Return a packet identifier that is not under way; the window is far smaller than their number."""
        while True:
            self._mid = self._mid % MAX_FAST_MID + 1
            if self._mid not in self.flights:
                return self._mid

    def sent(self, batch: PacketBatch) -> None:
        """The operating system has the whole batch: QoS 0 is done."""
        if batch.zeros:
            self._resolve([item for item in batch.items if item is not None and not item.qos], Outcome.SENT)

    def interrupted(self, batch: PacketBatch, sent: int) -> None:
        """The connection ended with `sent` bytes of the batch handed over: QoS 0 beyond them goes back."""
        again: list[Receipt] = []
        whole: list[Receipt] = []
        end = 0
        for item, part in zip(batch.items, batch.parts, strict=True):
            end += len(part)
            if item is not None and not item.qos:
                (whole if end <= sent else again).append(item)
        self._resolve(whole, Outcome.SENT)
        with self._owner:
            self._queue.extendleft(reversed(again))

    def acknowledge(self, found: Iterable[tuple[int, int]]) -> None:
        """Resolve publishes by packet identifier and reason code; 128 and above is a denial."""
        good: list[Receipt] = []
        denied: list[Receipt] = []
        with self._owner:
            for mid, code in found:
                item = self.flights.pop(mid, None)
                if item is None:
                    continue
                if code:
                    item.code, item.reason = code, REASONS.get(code, f"reason code 0x{code:02x}")
                (denied if code >= 128 else good).append(item)
        self._resolve(good, Outcome.ACKNOWLEDGED)
        self._resolve(denied, Outcome.DENIED)

    def resume(self, broker: BrokerLimits = ANY_PUBLISH) -> None:
        """A connection was accepted: send again with DUP what is under way (4.4), and take new publishes."""
        self.broker, self._restricted = broker, broker.restricted
        self.window = min(self.limits.max_inflight, broker.window)
        self.exact_window = min(self.window, broker.exact_window)
        self.acknowledgements.clear()
        with self._owner, self._lock:
            self._resend.clear()
            self._resend.extend((mid, item) for mid, item in self.flights.items() if item.qos == 1)
            self._accepting = not self._closed

    def suspend(self) -> None:
        """The connection is gone: take no new publishes, and release everyone who waits for room."""
        with self._lock:
            self._accepting = False
            self._room.notify_all()

    def close(self, reason: str) -> None:
        """The client is closed: resolve everything as lost, and release everyone who waits for room. Any thread."""
        with self._lock:
            self._closed = True
            self._accepting = False
            self._room.notify_all()
        self.lose(reason, keep_acknowledged=False)

    def lose(self, reason: str, *, keep_acknowledged: bool) -> None:
        """Resolve as lost what will not be sent or acknowledged: all QoS 0, and QoS 1 and 2 too unless kept."""
        with self._owner, self._lock:
            waiting = [*self._held, *self._queue]
            self._held.clear()
            self._queue.clear()
            self._queue.extend(item for item in waiting if item.qos and keep_acknowledged)
            lost = [item for item in waiting if not (item.qos and keep_acknowledged)]
            if not keep_acknowledged:
                lost += self.flights.values()
                self.flights.clear()
                self._resend.clear()
        self._resolve(lost, Outcome.LOST, reason)

    def _resolve(self, items: Collection[Receipt], outcome: Outcome, reason: str = "") -> None:
        """Set the outcome, free the room, wake the waiting threads."""
        if not items:
            return
        freed = 0
        for item in items:
            if reason:
                item.reason = reason
            item.payload = b""
            freed += item.size
            item.outcome = outcome  # last: whoever sees it sees the reason too
        with self._lock:
            self.unresolved -= len(items)
            self._bytes -= freed
            self.counts[outcome] += len(items)
            if outcome is Outcome.DROPPED:
                self.dropped[reason] += len(items)
            self.condition.notify_all()
            if self.unresolved <= self.limits.max_queued_messages // 2:
                self._room.notify_all()
        if self.on_resolved is not None:
            self.on_resolved()


def _no_qos2(_item: Receipt) -> int:
    raise NotImplementedError("QoS 2 needs paho")
