"""Publishes that wait or are in flight: a bounded queue and the send window. Pure.

Any thread puts publishes in; the network thread takes batches out and reports what was sent and acknowledged. A publish
counts against the bounds from `put` until its outcome is known.
"""

from __future__ import annotations

import collections
import contextlib
import threading
from collections.abc import Callable, Collection, Iterable

from mqttkit.client.sending.block import BlockReceipt, BlockSlice, IdentifierRange
from mqttkit.client.sending.packet_batch import BATCH_BYTES, PacketBatch, PublishEncoder
from mqttkit.client.sending.publish_queue import PublishQueue
from mqttkit.client.sending.receipt import Receipt
from mqttkit.client.sending.send_limits import BrokerLimits
from mqttkit.messages import Outcome
from mqttkit.settings import LimitSettings

ANY_PUBLISH = BrokerLimits()
MAX_FAST_MID = 49_151
"""Packet identifiers 1 to this are the outbox's; those above are paho's own, for SUBSCRIBE and QoS 2."""
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


class Outbox(PublishQueue):
    """The queue of publishes and the window of those in flight."""

    def __init__(self, limits: LimitSettings, *, keeps_session: bool = False) -> None:
        """If the session is kept, publishes of QoS 1 and 2 wait for the next connection."""
        super().__init__(limits, keeps_session=keeps_session)
        self.window = limits.max_inflight
        """QoS 1 and 2 publishes that may be in flight at a time."""
        self.exact_window = limits.max_inflight
        """Of those, QoS 2."""
        self.broker = BrokerLimits()
        """What the broker takes; `resume` sets it."""
        self.acknowledgements: collections.deque[bytes] = collections.deque()
        """PUBACK packets to send."""
        self.flights: dict[int, Receipt | IdentifierRange] = {}
        """QoS 1 and 2 publishes in flight, by packet identifier."""
        self.publish_qos2: Callable[[Receipt], int] = _no_qos2
        """Hands a QoS 2 publish to paho; returns its packet identifier."""
        self.on_resolved: Callable[[], None] | None = None
        """Called after each batch of publishes whose outcome became known, without a lock."""
        self._restricted = False
        self._held: collections.deque[Receipt | BlockSlice] = collections.deque()
        self._resend: collections.deque[tuple[int, Receipt | IdentifierRange]] = collections.deque()
        self._mid = 0
        self._encoder = PublishEncoder()
        self._owner = threading.RLock()
        """Held while a thread moves publishes between the queues: the network thread, or one that closes the client."""

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
            message = item.message(mid) if isinstance(item, IdentifierRange) else item
            cause = self._refusal_by_broker(message, len(message.payload), v5=v5)
            if cause:
                self.flights.pop(mid, None)
                self._resolve_flights({mid: item}, Outcome.DROPPED, cause)
                continue
            size += self._encoder.add(batch, message, mid, v5=v5, dup=True)
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

    def _take_from(
        self, queue: collections.deque[Receipt | BlockSlice], batch: PacketBatch, size: int, v5: bool
    ) -> int:
        """Move publishes from a queue into the batch; QoS 1 and 2 wait in `_held` while the window is full."""
        held, add = self._held, self._encoder.add
        while queue and size < BATCH_BYTES:
            item = queue[0]
            if self._restricted and self._remove_refused(queue, v5=v5):
                continue
            if size and size + len(item.first_payload if isinstance(item, BlockSlice) else item.payload) > BATCH_BYTES:
                return BATCH_BYTES
            if item.qos and ((held and queue is not held) or self._must_wait(item, self._window_left())):
                if queue is held:
                    return size
                held.append(queue.popleft())
            elif isinstance(item, BlockSlice):
                size += self._take_slice(item, batch, BATCH_BYTES - size, v5)
                if not item:
                    queue.popleft()
            else:
                queue.popleft()
                size += add(batch, item, 0, v5=v5) if not item.qos else self._take_flight(item, batch, v5)
        return size

    def _take_flight(self, item: Receipt, batch: PacketBatch, v5: bool) -> int:
        """Move a publish of QoS 1 into the batch, of QoS 2 to paho; return its size."""
        if item.qos == 2:
            self.flights[self.publish_qos2(item)] = item
            return 0
        mid = self._next_mid()
        self.flights[mid] = item
        return self._encoder.add(batch, item, mid, v5=v5)

    def _take_slice(self, waiting: BlockSlice, batch: PacketBatch, room: int, v5: bool) -> int:
        """Move messages from the front of a slice into the batch, as many as the window allows; return their size."""
        block, start = waiting.block, waiting.start
        if not block.qos:
            return self._encoder.add_zeros(batch, waiting, room, v5=v5)
        if block.qos == 2:
            mid = self.publish_qos2(block.message(start))
            self.flights[mid] = IdentifierRange(block, start - mid)
            waiting.start += 1
            return 0
        mids = self._next_mids(min(len(waiting), self._window_left()))
        taken, size = self._encoder.add_acknowledged(batch, block, start, mids, room, v5=v5)
        self._mid = mids[taken - 1]
        self.flights.update(dict.fromkeys(mids[:taken], IdentifierRange(block, start - mids[0])))
        waiting.start += taken
        return size

    def _remove_refused(self, queue: collections.deque[Receipt | BlockSlice], *, v5: bool) -> bool:
        """Drop what the broker does not take of the first publish or slice; return whether there was something."""
        item = queue[0]
        if not isinstance(item, BlockSlice):
            cause = self._refusal_by_broker(item, len(item.payload), v5=v5)
            if cause:
                queue.popleft()
                self._resolve((item,), Outcome.DROPPED, cause)
            return bool(cause)
        block, start = item.block, item.start
        if not self._refusal_by_broker(block, item.largest, v5=v5):
            return False
        good: list[BlockSlice] = []
        for index in range(start, item.stop):
            cause = self._refusal_by_broker(block, len(block.payloads[index]), v5=v5)
            if cause:
                good.append(BlockSlice(block, start, index))
                self._resolve_slices((BlockSlice(block, index, index + 1),), Outcome.DROPPED, cause)
                start = index + 1
        if not good:
            item.measure()  # not to look at each message again for the next batch
            return False
        queue.popleft()
        queue.extendleft(each for each in (BlockSlice(block, start, item.stop), *reversed(good)) if each)
        return True

    def _refusal_by_broker(self, item: Receipt | BlockReceipt, payload: int, *, v5: bool) -> str:
        """Return why the broker does not take a publish with so many bytes of payload; empty if it does."""
        if not self._restricted:
            return ""
        size = len(item.topic) + payload + (2 if item.qos else 0) + (len(item.properties) or 1 if v5 else 0)
        head = self._encoder.fixed_header(0, size)
        return self.broker.refusal(item.qos, item.retain, len(head) + size)

    def _window_left(self) -> int:
        return self.window - len(self.flights) + len(self._resend)

    def _must_wait(self, item: Receipt | BlockSlice, left: int) -> bool:
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

    def _next_mids(self, count: int) -> range:
        """Return up to `count` consecutive packet identifiers that are not under way."""
        first = self._next_mid()
        mids = range(first, min(first + count, MAX_FAST_MID + 1))
        if self.flights.keys().isdisjoint(mids):
            return mids
        return range(first, next(mid for mid in mids if mid in self.flights))

    def sent(self, batch: PacketBatch) -> None:
        """The operating system has the whole batch: QoS 0 is done."""
        if batch.zeros:
            self._resolve([item for item in batch.items if item is not None and not item.qos], Outcome.SENT)
        self._resolve_slices([each for _, each in batch.slices], Outcome.SENT)

    def interrupted(self, batch: PacketBatch, sent: int) -> None:
        """The connection ended with `sent` bytes of the batch handed over: QoS 0 beyond them goes back."""
        whole, again = batch.divide(sent)
        self._resolve_all(whole, Outcome.SENT)
        with self._owner:
            self._queue.extendleft(reversed(again))

    def acknowledge(self, found: Iterable[tuple[int, int]]) -> None:
        """Resolve publishes by packet identifier and reason code; 128 and above is a denial."""
        good: list[Receipt] = []
        denied: list[Receipt] = []
        of_blocks: list[tuple[int, IdentifierRange, int]] = []
        with self._owner:
            for mid, code in found:
                item = self.flights.pop(mid, None)
                if item is None:
                    continue
                if isinstance(item, IdentifierRange):
                    of_blocks.append((mid, item, code))
                    continue
                if code:
                    item.code, item.reason = code, _reason(code)
                (denied if code >= 128 else good).append(item)
        self._resolve(good, Outcome.ACKNOWLEDGED)
        self._resolve(denied, Outcome.DENIED)
        self._acknowledge_blocks(of_blocks)

    def _acknowledge_blocks(self, found: list[tuple[int, IdentifierRange, int]]) -> None:
        """Resolve messages of blocks, by identifier, range and reason code; those in a row together."""
        place = 0
        while place < len(found):
            mid, item, code = found[place]
            stop = place + 1
            while stop < len(found) and found[stop] == (mid + stop - place, item, code):
                stop += 1
            start = mid + item.offset
            denied = code >= 128
            self._resolve_slices(
                (BlockSlice(item.block, start, start + stop - place),),
                Outcome.DENIED if denied else Outcome.ACKNOWLEDGED,
                _reason(code) if denied else "",
                code,
            )
            place = stop

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
        flights: dict[int, Receipt | IdentifierRange] = {}
        with self._owner, self._lock:
            waiting = [*self._held, *self._queue]
            self._held.clear()
            self._queue.clear()
            self._queue.extend(item for item in waiting if item.qos and keep_acknowledged)
            lost = [item for item in waiting if not (item.qos and keep_acknowledged)]
            if not keep_acknowledged:
                flights.update(self.flights)
                self.flights.clear()
                self._resend.clear()
        self._resolve_all(lost, Outcome.LOST, reason)
        self._resolve_flights(flights, Outcome.LOST, reason)

    def _resolve_all(self, items: Iterable[Receipt | BlockSlice], outcome: Outcome, reason: str = "") -> None:
        receipts: list[Receipt] = []
        slices: list[BlockSlice] = []
        for item in items:
            if isinstance(item, BlockSlice):
                slices.append(item)
            else:
                receipts.append(item)
        self._resolve(receipts, outcome, reason)
        self._resolve_slices(slices, outcome, reason)

    def _resolve_flights(self, flights: dict[int, Receipt | IdentifierRange], outcome: Outcome, reason: str) -> None:
        """Resolve what was in flight."""
        self._resolve_all(
            (item.slice(mid) if isinstance(item, IdentifierRange) else item for mid, item in flights.items()),
            outcome,
            reason,
        )

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
            self._settle(len(items), freed, outcome, reason)
        if self.on_resolved is not None:
            self.on_resolved()

    def _resolve_slices(
        self, slices: Collection[BlockSlice], outcome: Outcome, reason: str = "", code: int = 0
    ) -> None:
        """Set the outcome of messages of blocks, as `_resolve` does."""
        if not slices:
            return
        with self._lock:
            freed = sum([each.block.resolve(each.start, each.stop, outcome, reason, code) for each in slices])
            self._settle(sum(map(len, slices)), freed, outcome, reason)
        if self.on_resolved is not None:
            self.on_resolved()


def _reason(code: int) -> str:
    return REASONS.get(code, f"reason code 0x{code:02x}")


def _no_qos2(_item: Receipt) -> int:
    raise NotImplementedError("QoS 2 needs paho")
