"""The receiver: it checks, handles and commits each message, and acknowledges it only then."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from mqttkit.controller.handover.receipts import FINAL_REASONS, ReceiptBook, ReturnAddress
from mqttkit.controller.messages.envelope import Envelope
from mqttkit.controller.messages.refusals import MessageRefusal, MessageRefused
from mqttkit.controller.messages.topics import Kind, Place, Topics
from mqttkit.controller.policies import Policy, PolicyBook
from mqttkit.controller.security.gate import STATELESS, Gate, OpenedMessage, open_message
from mqttkit.controller.store import Novelty, Store
from mqttkit.controller.transports.types import ReceivedMessage
from mqttkit.errors import StoreFailed

log = logging.getLogger(__name__)

Handler = Callable[[Place, Envelope], None]
PolicyHandler = Callable[[Policy], None]


class BatchBook(Protocol):
    """Collects what the messages of a batch cause, until the batch is committed."""

    def clear(self) -> None:
        """Forget it: the batch is undone."""
        ...

    def send(self) -> None:
        """Let it happen: the batch is committed."""
        ...


class RequestBook(BatchBook, Protocol):
    """The requests of a batch."""

    def take(self, opened: OpenedMessage) -> None:
        """Take a verified request; raise MessageRefused."""
        ...


class PolicyWatcher(Protocol):
    """Gets each policy message that is not the policy in force, before the policy is put in force."""

    def __call__(self, place: Place, envelope: Envelope | None, *, newer: bool) -> None:
        """`envelope` None: the retained message was erased."""
        ...


def _ignore_policy(place: Place, envelope: Envelope | None, *, newer: bool) -> None:
    """Do nothing: this controller publishes no policy."""


INBOX = 20_000
"""Messages that may wait for the worker."""
BATCH = 500
"""Messages in one transaction."""
STORE_SECONDS = 1.0
"""Seconds before the next try after the store failed."""
_RETRY_SECONDS = 0.1


@dataclass
class _RefusalLog:
    """The refusals for one reason since the last log line."""

    logged: float = float("-inf")
    count: int = 0


class Receiver:
    """One worker thread, which owns the store. Any thread may call `take`, which does not block.

    Handlers run in the worker. If a handler raises, the worker calls it again after 0.1 s, 0.2 s, 0.4 s …, up to
    `retries` times; then the message becomes a dead letter. For the messages that the worker has seen,
    received = handled + duplicate + refused + dead_lettered.
    """

    def __init__(
        self,
        topics: Topics,
        gate: Gate,
        store: Store,
        *,
        handlers: Mapping[Kind, Handler],
        on_policy: PolicyHandler,
        on_policy_replaced: PolicyWatcher = _ignore_policy,
        receipts: ReceiptBook | None = None,
        retries: int = 2,
    ) -> None:
        self.counters: Counter[str] = Counter()
        self.policies = PolicyBook(store)
        self._topics, self._gate, self._store = topics, gate, store
        self._handlers = handlers
        self._on_policy = on_policy
        self._on_policy_replaced = on_policy_replaced
        self.desk: RequestBook | None = None
        """Gets the requests. Set it before the first message."""
        self._receipts = receipts or ReceiptBook(lambda _address, _receipt: None)
        self.before_commit: Callable[[], bool] = lambda: True
        """Called in the worker after each batch; False leaves the batch unacknowledged."""
        self.redelivered = False
        """True while a handler gets a message that may have been delivered before."""
        self._retries = retries
        self._inbox: queue.Queue[ReceivedMessage | None] = queue.Queue(INBOX)
        self._refusal_logs: dict[MessageRefusal, _RefusalLog] = {}
        self._lock = threading.Lock()
        """Protects the worker's start and end, and the counters that other threads change."""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="receiver", daemon=True)

    def take(self, deliveries: list[ReceivedMessage]) -> None:
        """Queue messages. A message for which the queue has no room is counted and not acknowledged.

        The worker starts with the first message.
        """
        if self._thread.ident is None:
            with self._lock:
                if self._thread.ident is None and not self._stop.is_set():
                    self._thread.start()
        for delivery in deliveries:
            try:
                self._inbox.put_nowait(delivery)
            except queue.Full:
                with self._lock:
                    self.counters["overflow"] += 1

    @property
    def is_current_thread(self) -> bool:
        """True in the worker's thread, in which handlers run."""
        return threading.current_thread() is self._thread

    @property
    def waiting(self) -> int:
        """Number of messages that the worker has not seen yet."""
        return self._inbox.qsize()

    def close(self) -> None:
        """Handle the queued messages, then end; at the first batch whose output cannot be written, end immediately."""
        with self._lock:
            self._stop.set()
        if self._thread.is_alive():
            self._inbox.put(None)
            self._thread.join(15)

    def _run(self) -> None:
        while True:
            first = self._inbox.get()
            batch = [first]
            while len(batch) < BATCH and first is not None:
                try:
                    batch.append(self._inbox.get_nowait())
                except queue.Empty:
                    break
            work = [one for one in batch if one is not None]
            try:
                if not self._process_batch(work) and self._stop.is_set():
                    return
            except Exception:
                log.exception("cannot process %d messages; they are not acknowledged", len(work))
                self._store.roll_back()
                self._clear_books()
            if len(work) < len(batch):
                return

    def _process_batch(self, batch: list[ReceivedMessage]) -> bool:
        """Handle a batch in one transaction. If the store fails, try again until it works; acknowledge nothing before.

        Returns False if the batch is not acknowledged: its output cannot be written, or the receiver ends.

        Part of a failed batch may be in the store, so the messages of the next try count as redelivered.
        """
        while True:
            counters = self.counters.copy()
            try:
                for delivery in batch:
                    self._process(delivery)
                if not self.before_commit():
                    self._undo(counters)
                    return False
                self._store.commit()
                break
            except StoreFailed as error:
                self._restore_counters(counters)
                log.error("%s; %d messages are waiting", error, len(batch))  # noqa: TRY400  logged each second
                self._store.roll_back()
                self._clear_books()
                batch = [replace(delivery, dup=True) for delivery in batch]
            if self._stop.wait(STORE_SECONDS):
                return False
        for book in self._books():
            book.send()
        for delivery in batch:
            try:
                delivery.ack()
            except Exception:
                log.exception("cannot acknowledge a message on %.200r", delivery.topic)
        return True

    def _undo(self, counters: Counter[str]) -> None:
        """Undo a batch whose output could not be written; its messages will be delivered again."""
        self.counters = counters
        self._store.roll_back()
        self._clear_books()

    def _clear_books(self) -> None:
        for book in self._books():
            book.clear()

    def _books(self) -> Sequence[BatchBook]:
        return (self._receipts,) if self.desk is None else (self._receipts, self.desk)

    def _restore_counters(self, counters: Counter[str]) -> None:
        """Restore the counters from before a batch, except those that other threads have changed since."""
        with self._lock:
            if self.counters["overflow"]:
                counters["overflow"] = self.counters["overflow"]
            counters["store_errors"] += 1
            self.counters = counters

    def _process(self, delivery: ReceivedMessage) -> None:
        if not delivery.data:
            self._watch_erased_policy(delivery)
            return
        self.counters["received"] += 1
        try:
            self._judge(delivery)
        except MessageRefused as error:
            self._log_refusal(error, delivery)
        except StoreFailed:
            raise
        except Exception as error:
            log.exception("cannot check a message on %.200r", delivery.topic)
            self._dead_letter(delivery, error)

    def _judge(self, delivery: ReceivedMessage) -> None:
        """Handle a message if it is new; raise MessageRefused."""
        place = self._topics.place(delivery.topic)
        opened = open_message(self._gate.codec, place, delivery.data)
        if place.kind is not Kind.DISCOVERY:
            self._judge_opened(place, opened, delivery)
            return
        address = ReturnAddress(delivery.transport, place.region, place.controller_id)
        try:
            self._judge_opened(place, opened, delivery)
        except MessageRefused as error:
            self._receipts.refused(address, opened.envelope.message_id, error.reason)
            if error.reason.value in FINAL_REASONS:
                self._store.add_dead_letter(delivery.topic, delivery.data, f"refused, {error.reason.value}: {error}")
            raise
        self._receipts.handled(address, opened.envelope.message_id)

    def _judge_opened(self, place: Place, opened: OpenedMessage, delivery: ReceivedMessage) -> None:
        seen = self._gate.judge(place, opened, dup=delivery.dup)
        policy = None
        if place.kind is Kind.POLICY:
            policy, seen = self._judge_policy(place, opened)
        if seen is Novelty.SAME:
            self.counters["duplicate"] += 1
        elif self._handle(place, opened, policy, delivery):
            self.counters["handled"] += 1
        self._remember(place, opened, seen, policy)

    def _judge_policy(self, place: Place, opened: OpenedMessage) -> tuple[Policy, Novelty]:
        """Return the policy and whether it is new; tell the watcher about policies that are not in force."""
        try:
            policy, novelty = self.policies.judge(place.region, opened)
        except MessageRefused:
            self._on_policy_replaced(place, opened.envelope, newer=False)
            raise
        if novelty is Novelty.NEW:
            self._on_policy_replaced(place, opened.envelope, newer=True)
        return policy, novelty

    def _watch_erased_policy(self, delivery: ReceivedMessage) -> None:
        """An empty retained message erases a policy on the broker; it needs no key."""
        try:
            place = self._topics.place(delivery.topic)
        except MessageRefused:
            return
        if place.kind is Kind.POLICY:
            self._on_policy_replaced(place, None, newer=False)

    def _remember(self, place: Place, opened: OpenedMessage, seen: Novelty, policy: Policy | None) -> None:
        if policy is not None:
            if seen is Novelty.NEW:
                self.policies.put(policy)
        elif place.kind not in STATELESS:
            self._gate.admit(opened, seen)

    def _handle(self, place: Place, opened: OpenedMessage, policy: Policy | None, delivery: ReceivedMessage) -> bool:
        """Call the handler, with retries; return False if the message became a dead letter."""
        attempt = 0
        self.redelivered = delivery.dup
        while True:
            try:
                self._call(place, opened, policy)
                return True
            except MessageRefused:
                raise
            except (Exception, SystemExit) as error:  # SystemExit would end this thread silently
                self.counters["handler_errors"] += 1
                log.warning("handler of %s failed: %r", place.kind.value, error, exc_info=True)
                if attempt >= self._retries:
                    self._dead_letter(delivery, error)
                    return False
            self._stop.wait(_RETRY_SECONDS * 2**attempt)
            attempt += 1

    def _dead_letter(self, delivery: ReceivedMessage, error: BaseException) -> None:
        self.counters["dead_lettered"] += 1
        self._store.add_dead_letter(delivery.topic, delivery.data, f"{type(error).__name__}: {error}")

    def _call(self, place: Place, opened: OpenedMessage, policy: Policy | None) -> None:
        if policy is not None:
            self._on_policy(policy)
            return
        if place.kind is Kind.REQUEST and self.desk is not None:
            self.desk.take(opened)
            return
        handler = self._handlers.get(place.kind)
        if handler is not None:
            handler(place, opened.envelope)

    def _log_refusal(self, error: MessageRefused, delivery: ReceivedMessage) -> None:
        """Count a refusal; log each reason at most once a second."""
        self.counters["refused"] += 1
        self.counters[f"refused_{error.reason.value}"] += 1
        entry = self._refusal_logs.setdefault(error.reason, _RefusalLog())
        entry.count += 1
        now = time.monotonic()
        if now - entry.logged >= 1.0:
            text = "refused %d message(s), %s: %s (the last on %r by %s)"
            shown = delivery.topic[:200]
            log.warning(text, entry.count, error.reason.value, error.message, shown, delivery.transport)
            entry.logged, entry.count = now, 0
