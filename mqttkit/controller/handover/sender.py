"""The sender: it sends each message by the first transport that works, until one accepts it."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence

from mqttkit.controller.handover.clock import AddresseeClock
from mqttkit.controller.handover.outbox import ReportOutbox
from mqttkit.controller.handover.pending import PendingMessage, ReceiptWaits, SendAttempt
from mqttkit.controller.handover.receipts import CLOCK_REASONS, ReportReceipt
from mqttkit.controller.handover.retained import MissingRetained
from mqttkit.controller.messages.envelope import parse
from mqttkit.controller.security.gate import SKEW_SECONDS, Codec
from mqttkit.controller.transports.types import Promise, Transport
from mqttkit.errors import MqttkitError, StoreFailed

log = logging.getLogger(__name__)

WINDOW = 200
"""Messages that may wait for an acknowledgement at one time."""
ACK_SECONDS = 5.0
"""Seconds that a transport has to acknowledge before the sender tries the next one."""
AGAIN_SECONDS = 0.5
"""Seconds before the next try of a message that no transport accepted."""
SUSPECT_SECONDS = 5.0
"""Seconds for which the sender skips a transport that did not answer."""
WITHOUT_RECEIPT = 1_000
"""Messages that may wait for a receipt at one time; more could overflow the broker's queue for an absent addressee."""
_TICK = 0.25


class Sender:
    """Sends at QoS 1 in its own thread. Each try is signed again and keeps the message_id.

    With an outbox, messages that need a receipt survive a restart: `restore` queues them again. They wait while
    `brings_receipts` returns False for their transport.
    """

    def __init__(
        self,
        transports: Sequence[Transport],
        codec: Codec,
        *,
        limit: int = 10_000,
        skew: float = SKEW_SECONDS,
        outbox: ReportOutbox | None = None,
        on_denied: Callable[[str, bytes, str], None] = lambda _topic, _data, _reason: None,
        brings_receipts: Callable[[Transport], bool] = lambda _transport: True,
    ) -> None:
        self.sent: Counter[str] = Counter()
        """Messages accepted, by transport."""
        self.hops = 0
        """How often the transport in use changed."""
        self.current = ""
        """The transport that accepted the last message."""
        self.dropped = 0
        """Messages dropped, oldest first, because `limit` messages were waiting."""
        self.denied = 0
        """Messages that were denied for good, and given to `on_denied`."""
        self.unanswered = 0
        """How often the deadline for a receipt has passed."""
        self.clock = AddresseeClock(skew)
        """How this machine's clock differs from that of the reports' addressee."""
        self._transports, self._codec = transports, codec
        self._on_denied, self._limit = on_denied, limit
        self._outbox, self._brings_receipts = outbox, brings_receipts
        self._condition = threading.Condition()
        self._open: dict[str, PendingMessage] = {}  # all that are not settled, by message_id, oldest first
        self._queue, self._reports = deque[PendingMessage](), deque[PendingMessage]()  # reports need a receipt
        self._waits = ReceiptWaits()
        self._receipts: deque[tuple[str, ReportReceipt]] = deque()
        self._finished: list[str] = []  # settled messages that are still in the outbox
        self._under_way: deque[SendAttempt] = deque()
        self._later: deque[tuple[float, PendingMessage]] = deque()
        self._suspect: dict[str, float] = {}
        self._missing = MissingRetained(transports[0].name if transports else "")
        self._ready = self._stopping = False
        self._thread = threading.Thread(target=self._run, name="sender", daemon=True)

    def start(self) -> None:
        """Allow sending; the first message starts the thread."""
        with self._condition:
            self._ready = True
            self._run_if_needed()

    def _run_if_needed(self) -> None:
        if self._ready and self._open and self._thread.ident is None:
            self._thread.start()

    def put(self, item: PendingMessage) -> Promise:
        """Queue a message; if the queue is full, drop the oldest one. Raises StoreFailed if the outbox fails.

        The promise of a message that receivers would refuse has failed on return. The sender repeats a message that
        needs a receipt until its addressee has acknowledged it, and keeps it in the outbox until then.
        """
        envelope = item.envelope
        try:
            item.data = envelope.to_bytes()
            self._codec.check_size(item.data, item.topic, envelope.sender_id)
        except (MqttkitError, ValueError, TypeError) as error:
            log.warning("cannot send message %s: %s", envelope.message_id, error)
            item.promise.settle(False, str(error))
            return item.promise
        if item.needs_receipt and self._outbox is not None and not self._stopping:
            self._outbox.add(envelope.message_id, item.topic, item.data)
        self._enqueue(item)
        return item.promise

    def restore(self) -> int:
        """Queue the messages of the outbox, before `start`; return how many. Raises StoreFailed."""
        kept = self._outbox.load() if self._outbox is not None else []
        for topic, data in kept:
            self._enqueue(PendingMessage(parse(data), topic, retain=False, needs_receipt=True, data=data))
        return len(kept)

    def _enqueue(self, item: PendingMessage) -> None:
        with self._condition:
            if self._stopping:
                item.promise.settle(False, "the controller is closed")
                return
            if self.waiting >= self._limit:
                self.dropped += 1
                self._settle(next(iter(self._open.values())), False, "dropped: too many messages are waiting")
            self._open[item.envelope.message_id] = item
            (self._reports if item.needs_receipt else self._queue).append(item)
            self._run_if_needed()
            self._condition.notify()

    def receive(self, addressee: str, receipt: ReportReceipt, written: float) -> None:
        """Take a verified receipt of a controller, written at that time by its clock. Does not block."""
        refused = not CLOCK_REASONS.isdisjoint(receipt.refused.values())
        if refused or receipt.handled:  # what is handled was fresh enough, however late its receipt arrives
            self.clock.record(addressee, written - self._codec.time() if refused else 0.0)
        with self._condition:
            self._receipts.append((addressee, receipt))
            self._condition.notify()

    def wake(self) -> None:
        """Check the transports again: one may have appeared or disappeared."""
        with self._condition:
            self._condition.notify()

    @property
    def waiting(self) -> int:
        """Number of messages that are not settled: no transport has accepted them, or their receipt is missing."""
        return len(self._open)

    @property
    def taken(self) -> int:
        """Number of messages that a transport has taken and whose receipt is missing."""
        return len(self._waits)

    def flush(self, timeout: float) -> bool:
        """Wait up to `timeout` seconds until no message is waiting; return whether that is so."""
        deadline = time.monotonic() + timeout
        with self._condition:
            while self.waiting:
                left = deadline - time.monotonic()
                if left <= 0:
                    return False
                self._condition.wait(min(left, _TICK))
        return True

    def close(self, *, flush: float = 5.0) -> None:
        """Send waiting messages for up to `flush` seconds, then end; the promises of the rest fail.

        Messages without a receipt stay in the outbox. Closes the outbox.
        """
        if self._thread.is_alive():
            self.flush(flush)
        with self._condition:
            self._stopping = True
            self._condition.notify()
        if self._thread.is_alive():
            self._thread.join(10)
        for item in list(self._open.values()):
            item.promise.settle(False, "the controller was closed before it was delivered")
        self._clear_outbox()
        if self._outbox is not None:
            self._outbox.close()

    # --- in the sender's thread ---------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._stopping:
            try:
                moved = self._fill()
                moved = self._collect() or moved
                moved = self._settle_receipts() or moved
                self._repeat_unanswered()
                self._clear_outbox()
            except Exception:
                log.exception("the sender failed and continues")
                moved = False
            if not moved:
                self._rest()

    def _rest(self) -> None:
        """Wait for the oldest acknowledgement, or for a change."""
        if self._under_way:
            self._under_way[0].ticket.wait(0.05)
            return
        with self._condition:
            if not self._stopping and not self._receipts and self._next_queue() is None:
                self._condition.notify_all()
                self._condition.wait(_TICK)

    def _fill(self) -> bool:
        """Send the messages that can be sent; return True if there was one."""
        if self._missing and self._transports[0].available:
            for item in self._missing.take():
                self._start(item, self._transports[0])
        now = time.monotonic()
        while self._later and self._later[0][0] <= now:
            item = self._later.popleft()[1]
            (self._reports if item.needs_receipt else self._queue).append(item)
        started = False
        while len(self._under_way) < WINDOW and (queue := self._next_queue()) is not None:
            with self._condition:
                item = queue.popleft()
            transport = self._choose(item)
            if transport is not None and not item.promise.done:  # a dropped message stays in its queue
                self._start(item, transport)
            started = True
        return started

    def _next_queue(self) -> deque[PendingMessage] | None:
        """Return the queue whose first message can be sent now."""
        if self._queue and self._choose(self._queue[0]) is not None:
            return self._queue
        limit = 1 if self.clock.is_wrong else WITHOUT_RECEIPT
        room = len(self._waits) + len(self._under_way) < limit
        if room and self._reports:
            transport = self._choose(self._reports[0])
            if transport is not None and self._brings_receipts(transport):
                return self._reports
        return None

    def _start(self, item: PendingMessage, transport: Transport) -> None:
        if item.expires <= time.monotonic():
            self._settle(item, False, "no transport took it in time")
            return
        age = self._codec.time() - item.envelope.timestamp / 1000
        if not self._codec.signs and age > self.clock.skew:
            item.denial = f"expired: it is {age:.0f} s old, receivers refuse unsigned messages after the clock skew"
            self._deny(item)
            return
        try:
            data = self._codec.wrap_bytes(item.data, item.topic, item.envelope.sender_id)
            ticket = transport.send(item.topic, data, qos=item.qos, retain=item.retain)
        except MqttkitError as error:
            log.warning("cannot send message %s: %s", item.envelope.message_id, error)
            self._settle(item, False, str(error))
            return
        except Exception:
            log.exception("cannot send message %s", item.envelope.message_id)
            self._settle(item, False)
            return
        self._under_way.append(SendAttempt(item, transport.name, ticket, time.monotonic() + ACK_SECONDS))

    def _choose(self, item: PendingMessage) -> Transport | None:
        """Return the first transport that may work and that this message has not tried."""
        now = time.monotonic()
        for one in self._transports:
            if one.name not in item.tried and one.available and self._suspect.get(one.name, 0.0) <= now:
                return one
        return None

    def _collect(self) -> bool:
        """Settle the messages with a known outcome; return True if there was one."""
        now = time.monotonic()
        left: deque[SendAttempt] = deque()
        again: list[PendingMessage] = []
        settled = 0
        for one in self._under_way:
            if one.item.promise.done and one.item.needs_receipt:
                self._count_sent(one.transport)  # its receipt was faster
            elif one.is_taken:
                self._taken_over(one)
            elif one.ticket.done or one.deadline <= now:
                self._failed(one, again)
            else:
                left.append(one)
                continue
            settled += 1
        self._under_way = left
        with self._condition:
            for item in reversed(again):
                (self._reports if item.needs_receipt else self._queue).appendleft(item)
        return settled > 0

    def _taken_over(self, one: SendAttempt) -> None:
        self._count_sent(one.transport)
        if one.item.retain:
            self._missing.taken(one.item, one.transport)
        one.item.promise.taken_by = one.transport
        if one.item.needs_receipt:
            self._waits.add(one.item, one.transport, time.monotonic())
        else:
            self._settle(one.item, True)

    def _count_sent(self, transport: str) -> None:
        if transport != self.current:
            if self.current:
                self.hops += 1
                log.warning("now sending messages by %s", transport)
            self.current = transport
        self._suspect.pop(transport, None)
        self.sent[transport] += 1

    def _settle(self, item: PendingMessage, ok: bool, reason: str = "") -> None:
        with self._condition:
            item.promise.settle(ok, reason)
            message_id = item.envelope.message_id
            self._open.pop(message_id, None)
            self._waits.discard(message_id)
            if item.needs_receipt:
                self._finished.append(message_id)
            self._condition.notify_all()

    def _settle_receipts(self) -> bool:
        """Settle the messages that receipts name; return True if there was a receipt."""
        moved = False
        while self._receipts:
            addressee, receipt = self._receipts.popleft()
            moved = True
            for message_id in receipt.handled:
                if (item := self._open.get(message_id)) is not None:
                    self._settle(item, True)
            for message_id, reason in receipt.refused.items():
                if (item := self._open.get(message_id)) is not None:
                    self._refused(item, addressee, reason)
        return moved

    def _refused(self, item: PendingMessage, addressee: str, reason: str) -> None:
        """Deny a message that its addressee refuses for good; keep one that a wrong clock has spoiled."""
        if reason in CLOCK_REASONS:
            text = "%s refuses the reports of this controller (%s); correct the clock of one of the two machines"
            log.error(text, addressee, reason)
            return  # it is sent again when the deadline for the receipt has passed
        item.denial = f"refused by {addressee}: {reason}"
        self._deny(item)

    def _repeat_unanswered(self) -> None:
        """Send the messages again whose receipt is overdue, by another transport if there is one."""
        overdue = self._waits.take_overdue(time.monotonic())
        if not overdue:
            return
        self.unanswered += len(overdue)
        text = "no receipt for %d message(s) that %s has taken; sending them again"
        log.warning(text, len(overdue), overdue[0][1])
        for item, _transport in overdue:
            if self._choose(item) is None:
                item.tried.clear()
            self._reports.append(item)

    def _clear_outbox(self) -> None:
        """Delete settled messages from the outbox, in one transaction."""
        if not self._finished:
            return
        with self._condition:
            finished, self._finished = self._finished, []
        if self._outbox is None:
            return
        try:
            self._outbox.remove(finished)
        except StoreFailed as error:
            log.warning("%s; they will be sent again after a restart", error)

    def _failed(self, one: SendAttempt, again: list[PendingMessage]) -> None:
        if not one.ticket.done:
            self._suspect[one.transport] = time.monotonic() + SUSPECT_SECONDS
            log.warning("%s did not acknowledge a message within %.0f s", one.transport, ACK_SECONDS)
        one.item.tried.add(one.transport)
        one.item.denial = one.denial or one.item.denial
        if self._choose(one.item) is not None:
            again.append(one.item)
            return
        if one.item.denial:
            self._deny(one.item)
            return
        one.item.tried.clear()
        self._later.append((time.monotonic() + AGAIN_SECONDS, one.item))

    def _deny(self, item: PendingMessage) -> None:
        """Give up on a message that a broker denied and that no other transport accepted."""
        self.denied += 1
        log.error("message on %s: %s; it is not sent again", item.topic, item.denial)
        try:
            self._on_denied(item.topic, item.data, item.denial)
        except MqttkitError as error:
            log.warning("the denied message is not kept: %s", error)
        self._settle(item, False, item.denial)
