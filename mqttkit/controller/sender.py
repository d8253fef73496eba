"""The sender: each message leaves by the best transport that works, once it is taken over it is done."""

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
"""Messages under way at a time."""
ACK_SECONDS = 5.0
"""How long a transport may take before the next one is tried."""
AGAIN_SECONDS = 0.5
"""How long a message waits that no transport could deliver."""
NO_MATCHING_SUBSCRIBERS = 16
"""PUBACK: accepted, and given to nobody (MQTT 5, 3.4.2.1)."""
SUSPECT_SECONDS = 5.0
"""How long a transport that did not answer is passed over."""
_TICK = 0.25


@dataclass(eq=False)
class Outgoing:
    """A message on its way out."""

    envelope: Envelope
    topic: str
    retain: bool
    needs_taker: bool = False
    """The broker's PUBACK counts only where somebody subscribes to the topic."""
    promise: Promise = field(default_factory=Promise)
    """Settled when some transport has taken the message over."""
    tried: set[str] = field(default_factory=set)


@dataclass(eq=False)
class _UnderWay:
    item: Outgoing
    transport: str
    ticket: Ticket
    deadline: float


class Sender:
    """Sends at QoS 1 in a thread of its own. Every try is signed anew, the message_id stays."""

    def __init__(
        self,
        transports: Sequence[Transport],
        wrap: Callable[[Envelope, str], bytes],
        *,
        limit: int = 10_000,
    ) -> None:
        self.sent: Counter[str] = Counter()
        """Messages taken over, by transport."""
        self.hops = 0
        """How often the transport in use changed."""
        self.current = ""
        """Transport that took over the last message."""
        self.dropped = 0
        """Messages not accepted because `limit` messages were waiting."""
        self._transports = transports
        self._wrap = wrap
        self._limit = limit
        self._condition = threading.Condition()
        self._open: set[Outgoing] = set()
        self._queue: deque[Outgoing] = deque()
        self._under_way: deque[_UnderWay] = deque()
        self._later: deque[tuple[float, Outgoing]] = deque()
        self._suspect: dict[str, float] = {}
        self._owed: dict[str, Outgoing] = {}
        self._ready = self._stopping = False
        self._thread = threading.Thread(target=self._run, name="sender", daemon=True)

    def start(self) -> None:
        """Begin to send; the thread starts with the first message."""
        with self._condition:
            self._ready = True
            self._run_if_needed()

    def _run_if_needed(self) -> None:
        if self._ready and self._open and self._thread.ident is None:
            self._thread.start()

    def put(self, envelope: Envelope, topic: str, *, retain: bool = False, needs_taker: bool = False) -> Promise:
        """Queue a message; the promise fails at once where the queue is full.

        With `needs_taker` a message to which nobody subscribes is sent again until somebody does, as far as the
        transport tells that (MQTT 5, 3.4.2.1: no matching subscribers).
        """
        item = Outgoing(envelope, topic, retain, needs_taker)
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
        """Look again: a transport may have come or gone."""
        with self._condition:
            self._condition.notify()

    @property
    def waiting(self) -> int:
        """Messages that no transport has taken over yet."""
        return len(self._open)

    def flush(self, timeout: float) -> bool:
        """Wait up to `timeout` seconds until nothing waits."""
        deadline = time.monotonic() + timeout
        with self._condition:
            while self.waiting:
                left = deadline - time.monotonic()
                if left <= 0:
                    return False
                self._condition.wait(min(left, _TICK))
        return True

    def close(self, *, flush: float = 5.0) -> None:
        """Send what waits for up to `flush` seconds, then end; what is left fails."""
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
                log.exception("the sender failed and goes on")
                moved = False
            if not moved:
                self._rest()

    def _rest(self) -> None:
        """Wait for the oldest message under way, or for a change."""
        if self._under_way:
            self._under_way[0].ticket.wait(0.05)
            return
        with self._condition:
            if not self._stopping and not (self._queue and self._choose(self._queue[0])):
                self._condition.notify_all()
                self._condition.wait(_TICK)

    def _fill(self) -> bool:
        """Start what can be started; True where something was."""
        self._pay()
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

    def _start(self, item: Outgoing, transport: Transport) -> None:
        try:
            data = self._wrap(item.envelope, item.topic)
            ticket = transport.send(item.topic, data, qos=1, retain=item.retain)
        except (MqttkitError, ValueError, TypeError) as error:
            log.warning("message %s cannot be sent: %s", item.envelope.message_id, error)
            self._settle(item, False)
            return
        except Exception:
            log.exception("message %s cannot be sent", item.envelope.message_id)
            self._settle(item, False)
            return
        self._under_way.append(_UnderWay(item, transport.name, ticket, time.monotonic() + ACK_SECONDS))

    def _choose(self, item: Outgoing) -> Transport | None:
        """Return the first transport that may work and was not tried for this message."""
        now = time.monotonic()
        for one in self._transports:
            if one.name not in item.tried and one.available and self._suspect.get(one.name, 0.0) <= now:
                return one
        return None

    def _collect(self) -> bool:
        """Settle what is known; True where something was."""
        now = time.monotonic()
        left: deque[_UnderWay] = deque()
        again: list[Outgoing] = []
        settled = 0
        for one in self._under_way:
            if one.ticket.done and one.ticket.ok and not _untaken(one):
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

    def _taken_over(self, one: _UnderWay) -> None:
        if one.transport != self.current:
            if self.current:
                self.hops += 1
                log.warning("messages now leave by %s", one.transport)
            self.current = one.transport
        self._suspect.pop(one.transport, None)
        self.sent[one.transport] += 1
        if one.item.retain:
            self._owe(one)
        self._settle(one.item, True)

    def _settle(self, item: Outgoing, ok: bool) -> None:
        item.promise.settle(ok)
        with self._condition:
            self._open.discard(item)
            self._condition.notify_all()

    def _failed(self, one: _UnderWay, again: list[Outgoing]) -> None:
        if not one.ticket.done:
            self._suspect[one.transport] = time.monotonic() + SUSPECT_SECONDS
            log.warning("no acknowledgement by %s within %.0f s", one.transport, ACK_SECONDS)
        one.item.tried.add(one.transport)
        if self._choose(one.item) is not None:
            again.append(one.item)
            return
        one.item.tried.clear()
        self._later.append((time.monotonic() + AGAIN_SECONDS, one.item))

    def _owe(self, one: _UnderWay) -> None:
        """Remember that the first transport still holds an older retained message."""
        first = self._transports[0].name
        if one.transport == first:
            owed = self._owed.get(one.item.topic)
            if owed is not None and owed.envelope.sequence <= one.item.envelope.sequence:
                del self._owed[one.item.topic]
        else:
            self._owed[one.item.topic] = one.item

    def _pay(self) -> None:
        """Send again by the first transport, when it is back, what is retained elsewhere only."""
        if not self._owed or not self._transports[0].available:
            return
        owed, self._owed = self._owed, {}
        for item in owed.values():
            self._start(Outgoing(item.envelope, item.topic, retain=True), self._transports[0])


def _untaken(one: _UnderWay) -> bool:
    return one.item.needs_taker and getattr(one.ticket, "code", 0) == NO_MATCHING_SUBSCRIBERS
