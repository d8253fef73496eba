"""The sender: it sends each message by the first transport that works, until one accepts it."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from mqttkit.controller.messages.envelope import Envelope
from mqttkit.controller.transports.types import Promise, Ticket, Transport
from mqttkit.errors import MqttkitError

log = logging.getLogger(__name__)

WINDOW = 200
"""Messages that may wait for an acknowledgement at one time."""
ACK_SECONDS = 5.0
"""Seconds that a transport has to acknowledge before the sender tries the next one."""
AGAIN_SECONDS = 0.5
"""Seconds before the next try of a message that no transport accepted."""
NO_MATCHING_SUBSCRIBERS = 16
"""PUBACK reason code: accepted, but no client subscribes (MQTT 5, 3.4.2.1)."""
REFUSED_FOR_GOOD = frozenset({135, 144, 149, 153})
"""PUBACK reason codes that another try does not change: not authorized, topic name, size, payload (MQTT 5, 2.4)."""
SUSPECT_SECONDS = 5.0
"""Seconds for which the sender skips a transport that did not answer."""
_TICK = 0.25


@dataclass(eq=False)
class PendingMessage:
    """A message that no transport has accepted yet."""

    envelope: Envelope
    topic: str
    retain: bool
    needs_subscriber: bool = False
    """The broker's PUBACK counts only if a client subscribes to the topic."""
    promise: Promise = field(default_factory=Promise)
    """Settles when a transport has accepted the message."""
    tried: set[str] = field(default_factory=set)
    denial: str = ""
    """Why a broker denied it for good."""


@dataclass(eq=False)
class _SendAttempt:
    item: PendingMessage
    transport: str
    ticket: Ticket
    deadline: float


class Sender:
    """Sends at QoS 1 in its own thread. Each try is signed again and keeps the message_id."""

    def __init__(
        self,
        transports: Sequence[Transport],
        wrap: Callable[[Envelope, str], bytes],
        *,
        limit: int = 10_000,
        on_denied: Callable[[str, bytes, str], None] = lambda _topic, _data, _reason: None,
    ) -> None:
        self.sent: Counter[str] = Counter()
        """Messages accepted, by transport."""
        self.hops = 0
        """How often the transport in use changed."""
        self.current = ""
        """The transport that accepted the last message."""
        self.dropped = 0
        """Messages rejected because `limit` messages were waiting."""
        self.denied = 0
        """Messages that were denied for good, and given to `on_denied`."""
        self._transports = transports
        self._on_denied = on_denied
        self._wrap = wrap
        self._limit = limit
        self._condition = threading.Condition()
        self._open: set[PendingMessage] = set()
        self._queue: deque[PendingMessage] = deque()
        self._under_way: deque[_SendAttempt] = deque()
        self._later: deque[tuple[float, PendingMessage]] = deque()
        self._suspect: dict[str, float] = {}
        self._missing_on_first: dict[str, PendingMessage] = {}
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

    def put(self, envelope: Envelope, topic: str, *, retain: bool = False, needs_subscriber: bool = False) -> Promise:
        """Queue a message; if the queue is full, the promise has failed already.

        With `needs_subscriber` the sender repeats a message until a client subscribes to its topic. Only MQTT 5
        brokers report that no client subscribes (3.4.2.1).
        """
        item = PendingMessage(envelope, topic, retain, needs_subscriber)
        with self._condition:
            if self.waiting >= self._limit or self._stopping:
                self.dropped += 1
                item.promise.settle(False)
                return item.promise
            self._open.add(item)
            self._queue.append(item)
            self._run_if_needed()
            self._condition.notify()
        return item.promise

    def wake(self) -> None:
        """Check the transports again: one may have appeared or disappeared."""
        with self._condition:
            self._condition.notify()

    @property
    def waiting(self) -> int:
        """Number of messages that no transport has accepted yet."""
        return len(self._open)

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
        """Send waiting messages for up to `flush` seconds, then end; the promises of the rest fail."""
        if self._thread.is_alive():
            self.flush(flush)
        with self._condition:
            self._stopping = True
            self._condition.notify()
        if self._thread.is_alive():
            self._thread.join(10)
        for item in list(self._open):
            item.promise.settle(False)

    # --- in the sender's thread ---------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._stopping:
            try:
                moved = self._fill()
                moved = self._collect() or moved
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
            if not self._stopping and not (self._queue and self._choose(self._queue[0])):
                self._condition.notify_all()
                self._condition.wait(_TICK)

    def _fill(self) -> bool:
        """Send the messages that can be sent; return True if there was one."""
        self._resend_retained()
        now = time.monotonic()
        while self._later and self._later[0][0] <= now:
            self._queue.append(self._later.popleft()[1])
        started = False
        while self._queue and len(self._under_way) < WINDOW:
            transport = self._choose(self._queue[0])
            if transport is None:
                break
            with self._condition:
                item = self._queue.popleft()
            self._start(item, transport)
            started = True
        return started

    def _start(self, item: PendingMessage, transport: Transport) -> None:
        try:
            data = self._wrap(item.envelope, item.topic)
            ticket = transport.send(item.topic, data, qos=1, retain=item.retain)
        except (MqttkitError, ValueError, TypeError) as error:
            log.warning("cannot send message %s: %s", item.envelope.message_id, error)
            self._settle(item, False)
            return
        except Exception:
            log.exception("cannot send message %s", item.envelope.message_id)
            self._settle(item, False)
            return
        self._under_way.append(_SendAttempt(item, transport.name, ticket, time.monotonic() + ACK_SECONDS))

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
        left: deque[_SendAttempt] = deque()
        again: list[PendingMessage] = []
        settled = 0
        for one in self._under_way:
            if one.ticket.done and one.ticket.ok and not _reached_no_subscriber(one):
                self._taken_over(one)
            elif one.ticket.done or one.deadline <= now:
                self._failed(one, again)
            else:
                left.append(one)
                continue
            settled += 1
        self._under_way = left
        with self._condition:
            self._queue.extendleft(reversed(again))
        return settled > 0

    def _taken_over(self, one: _SendAttempt) -> None:
        if one.transport != self.current:
            if self.current:
                self.hops += 1
                log.warning("now sending messages by %s", one.transport)
            self.current = one.transport
        self._suspect.pop(one.transport, None)
        self.sent[one.transport] += 1
        if one.item.retain:
            self._track_retained(one)
        self._settle(one.item, True)

    def _settle(self, item: PendingMessage, ok: bool) -> None:
        item.promise.settle(ok)
        with self._condition:
            self._open.discard(item)
            self._condition.notify_all()

    def _failed(self, one: _SendAttempt, again: list[PendingMessage]) -> None:
        if not one.ticket.done:
            self._suspect[one.transport] = time.monotonic() + SUSPECT_SECONDS
            log.warning("%s did not acknowledge a message within %.0f s", one.transport, ACK_SECONDS)
        one.item.tried.add(one.transport)
        if getattr(one.ticket, "code", 0) in REFUSED_FOR_GOOD:
            one.item.denial = str(getattr(one.ticket, "reason", "")) or "denied by the broker"
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
            self._on_denied(item.topic, item.envelope.to_bytes(), item.denial)
        except MqttkitError as error:
            log.warning("the denied message is not kept: %s", error)
        self._settle(item, False)

    def _track_retained(self, one: _SendAttempt) -> None:
        """Remember whether the first transport still has an older retained message."""
        first = self._transports[0].name
        if one.transport == first:
            missing = self._missing_on_first.get(one.item.topic)
            if missing is not None and missing.envelope.sequence <= one.item.envelope.sequence:
                del self._missing_on_first[one.item.topic]
        else:
            self._missing_on_first[one.item.topic] = one.item

    def _resend_retained(self) -> None:
        """When the first transport is back, send it the retained messages that only other transports have."""
        if not self._missing_on_first or not self._transports[0].available:
            return
        missing, self._missing_on_first = self._missing_on_first, {}
        for item in missing.values():
            self._start(PendingMessage(item.envelope, item.topic, retain=True), self._transports[0])


def _reached_no_subscriber(one: _SendAttempt) -> bool:
    return one.item.needs_subscriber and getattr(one.ticket, "code", 0) == NO_MATCHING_SUBSCRIBERS
