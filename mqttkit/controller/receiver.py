"""The receiver: what comes in is judged, handled, committed and only then acknowledged."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from mqttkit.controller.messages.envelope import Envelope
from mqttkit.controller.messages.refusals import MessageRefused, Reason
from mqttkit.controller.messages.topics import Kind, Place, Topics
from mqttkit.controller.policies import Policy, PolicyBook
from mqttkit.controller.security.gate import Gate, Opened
from mqttkit.controller.store import Seen, Store
from mqttkit.controller.transports.types import Delivery
from mqttkit.errors import StoreFailed

log = logging.getLogger(__name__)

Handler = Callable[[Place, Envelope], None]
PolicyHandler = Callable[[Policy], None]

INBOX = 20_000
"""Messages that may wait for the worker."""
BATCH = 500
"""Messages in one transaction."""
STORE_SECONDS = 1.0
"""Pause before a store that failed is tried again."""
_RETRY_SECONDS = 0.1


@dataclass
class _Complaint:
    """Refusals of one reason since the last line in the log."""

    logged: float = float("-inf")
    count: int = 0


class Receiver:
    """One worker thread that owns the store. `take` may be called from any thread and does not block.

    Handlers run in the worker. One that raises is called again after 0.1 s, 0.2 s, 0.4 s …, `retries` times, then the
    message is dead-lettered. At every moment received = handled + duplicate + refused + dead_lettered + waiting.
    """

    def __init__(
        self,
        topics: Topics,
        gate: Gate,
        store: Store,
        *,
        handlers: Mapping[Kind, Handler],
        on_policy: PolicyHandler,
        retries: int = 2,
    ) -> None:
        self.counters: Counter[str] = Counter()
        self.policies = PolicyBook(store)
        self._topics, self._gate, self._store = topics, gate, store
        self._handlers = handlers
        self._on_policy = on_policy
        self._retries = retries
        self._inbox: queue.Queue[Delivery | None] = queue.Queue(INBOX)
        self._complaints: dict[Reason, _Complaint] = {}
        self._lock = threading.Lock()
        """Of the worker's start and end, and of what other threads count."""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="receiver", daemon=True)

    def take(self, deliveries: list[Delivery]) -> None:
        """Queue what came in; what finds no room is not acknowledged, and counted.

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
    def waiting(self) -> int:
        """Messages that the worker has not seen yet."""
        return self._inbox.qsize()

    def close(self) -> None:
        """Work off what is there, then end."""
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
                self._work(work)
            except Exception:
                log.exception("%d messages could not be dealt with, and are not acknowledged", len(work))
                self._store.roll_back()
            if len(work) < len(batch):
                return

    def _work(self, batch: list[Delivery]) -> None:
        """Handle a batch in one transaction; where the store fails, again and again: nothing is acknowledged.

        Some of a batch that failed may have lasted, so that its messages come again as redelivered.
        """
        while True:
            counters = self.counters.copy()
            try:
                for delivery in batch:
                    self._one(delivery)
                self._store.commit()
                break
            except StoreFailed as error:
                self._count_again(counters)
                log.error("%s; %d messages wait", error, len(batch))  # noqa: TRY400  told each second
                self._store.roll_back()
                batch = [replace(delivery, dup=True) for delivery in batch]
            if self._stop.wait(STORE_SECONDS):
                return
        for delivery in batch:
            try:
                delivery.ack()
            except Exception:
                log.exception("a message on %.200r could not be acknowledged", delivery.topic)

    def _count_again(self, counters: Counter[str]) -> None:
        """Go back to the counters of before a batch, but for what other threads have counted since."""
        with self._lock:
            if self.counters["overflow"]:
                counters["overflow"] = self.counters["overflow"]
            counters["store_errors"] += 1
            self.counters = counters

    def _one(self, delivery: Delivery) -> None:
        if not delivery.data:
            return
        self.counters["received"] += 1
        try:
            self._judge(delivery)
        except MessageRefused as error:
            self._complain(error, delivery)
        except StoreFailed:
            raise
        except Exception as error:
            log.exception("a message on %.200r could not be judged", delivery.topic)
            self._bury(delivery, error)

    def _judge(self, delivery: Delivery) -> None:
        """Handle a message where it is new; raise MessageRefused."""
        place = self._topics.place(delivery.topic)
        opened, seen = self._gate.open(place, delivery.data, dup=delivery.dup)
        policy = None
        if place.kind is Kind.POLICY:
            policy, seen = self.policies.judge(place.region, opened)
        if seen is Seen.SAME:
            self.counters["duplicate"] += 1
        elif self._handle(place, opened, policy, delivery):
            self.counters["handled"] += 1
        self._remember(place, opened, seen, policy)

    def _remember(self, place: Place, opened: Opened, seen: Seen, policy: Policy | None) -> None:
        if policy is not None:
            if seen is Seen.NEW:
                self.policies.put(policy, opened)
        elif place.kind is not Kind.STATUS:
            self._gate.admit(opened, seen)

    def _handle(self, place: Place, opened: Opened, policy: Policy | None, delivery: Delivery) -> bool:
        """Call the handler, again where it raises; False where the message had to be dead-lettered."""
        attempt = 0
        while True:
            try:
                self._call(place, opened.envelope, policy)
                return True
            except MessageRefused:
                raise
            except (Exception, SystemExit) as error:  # SystemExit would end this thread without a word
                self.counters["handler_errors"] += 1
                log.warning("handler of %s failed: %r", place.kind.value, error, exc_info=True)
                if attempt >= self._retries:
                    self._bury(delivery, error)
                    return False
            self._stop.wait(_RETRY_SECONDS * 2**attempt)
            attempt += 1

    def _bury(self, delivery: Delivery, error: BaseException) -> None:
        self.counters["dead_lettered"] += 1
        self._store.bury(delivery.topic, delivery.data, f"{type(error).__name__}: {error}")

    def _call(self, place: Place, envelope: Envelope, policy: Policy | None) -> None:
        if policy is not None:
            self._on_policy(policy)
            return
        handler = self._handlers.get(place.kind)
        if handler is not None:
            handler(place, envelope)

    def _complain(self, error: MessageRefused, delivery: Delivery) -> None:
        """Count a refusal, and log it at most once a second for each reason."""
        self.counters["refused"] += 1
        self.counters[f"refused_{error.reason.value}"] += 1
        complaint = self._complaints.setdefault(error.reason, _Complaint())
        complaint.count += 1
        now = time.monotonic()
        if now - complaint.logged >= 1.0:
            text = "refused %d message(s), %s: %s (last on %r by %s)"
            shown = delivery.topic[:200]
            log.warning(text, complaint.count, error.reason.value, error.message, shown, delivery.transport)
            complaint.logged, complaint.count = now, 0
