"""The bounded queue between the connection's thread, which fills it, and the worker, which takes batches."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice

from mqttkit.bridge.flow.accounting import Books
from mqttkit.messages import Message

QUIET = 0.002
"""Seconds without a new message after which a batch is not waited for any longer."""

LOW_RATE = 200.0
"""Messages a second below which each batch is committed at once."""

HIGH_WATER, LOW_WATER = 0.4, 0.2
"""Shares of the queue: from the one on nothing more is read, down to the other. One read brings at most as many
messages as fit above the first."""


@dataclass(frozen=True, kw_only=True)
class PipelineLimits:
    """Bounds of what waits and of one batch."""

    batch_size: int = 500
    """Messages in one commit."""
    batch_window: float = 0.05
    """Seconds that a message waits for company at most; under light load none does."""
    queue_messages: int = 10_000
    """Messages taken and not yet in a batch."""
    queue_bytes: int = 32 * 1024 * 1024
    """Bytes of their payloads; one message alone may have more."""


class Intake:
    """Messages in order of receipt, until a batch takes them."""

    def __init__(self, limits: PipelineLimits, books: Books, pause: Callable[[bool], None]) -> None:
        """`pause` is called with True where the queue gets full, and with False when there is room again."""
        self._limits = limits
        self._books = books
        self._pause = pause
        self._paused = False
        self._condition = threading.Condition()
        self._queue: deque[Message] = deque()
        self._queued_bytes = 0
        self._peeking = False
        self._rate = 0.0
        self._taken_at = time.monotonic()
        self.draining = False
        """True where nothing more is taken in."""
        self.stopped = False
        """True where also what was taken in is given up."""

    # -- the connection's side ---------------------------------------------------------------------

    def offer(self, messages: list[Message]) -> bool:
        """Take messages, or return False: there is no room, and the connection must end."""
        size = sum(len(message.payload) for message in messages)
        with self._condition:
            if self.draining:
                self._books.turned_away += len(messages)
                return True
            waiting = len(self._queue)
            fits = waiting + len(messages) <= self._limits.queue_messages
            fits = fits and (self._queued_bytes + size <= self._limits.queue_bytes or not waiting)
            if not fits:
                self._books.overflows += 1
                self._books.turned_away += len(messages)
                self._books.lost_qos0 += sum(message.qos == 0 for message in messages)
                return False
            self._books.take(len(messages))
            self._queue.extend(messages)
            self._queued_bytes += size
            self._set_paused(self.fill >= HIGH_WATER)
            if not waiting or waiting < self._limits.batch_size <= len(self._queue):
                self._condition.notify_all()
        return True

    def reconnected(self, epoch: int, *, session_present: bool) -> None:
        """Give back what waits from before connection `epoch`, where the session lives: it comes again.

        Without the session nobody else has it: then it stays, to be committed and never acknowledged.
        """
        with self._condition:
            if session_present:
                kept = deque(message for message in self._queue if message.epoch >= epoch or message.qos == 0)
                self._books.give_back(len(self._queue) - len(kept))
                self._queue = kept
                self._queued_bytes = sum(len(message.payload) for message in kept)
            self._set_paused(self.fill >= HIGH_WATER)

    def disconnected(self) -> None:
        """Read again, however full the queue is: the next connection's CONNACK must come through."""
        with self._condition:
            self._set_paused(False)

    @property
    def queued(self) -> int:
        """Messages that wait for a batch."""
        return len(self._queue)

    @property
    def fill(self) -> float:
        """How full the queue is, 0 to 1."""
        return max(len(self._queue) / self._limits.queue_messages, self._queued_bytes / self._limits.queue_bytes)

    # -- stopping ----------------------------------------------------------------------------------

    def drain(self) -> None:
        """Take nothing more in; what was taken is still given out."""
        with self._condition:
            self.draining = True
            self._condition.notify_all()

    def stop(self) -> None:
        """Give up also what was taken in: it is not acknowledged, so the broker keeps it."""
        with self._condition:
            self.draining = self.stopped = True
            self._condition.notify_all()

    def wait_stopped(self, timeout: float) -> bool:
        """Wait for `stop`; True if it came, or was there."""
        with self._condition:
            return self._condition.wait_for(lambda: self.stopped, timeout)

    # -- the worker's side -------------------------------------------------------------------------

    def take(self, timeout: float) -> list[Message]:
        """Take a batch out; nothing if none came within `timeout` seconds, or all was given up."""
        limit = self._limits.batch_size
        with self._condition:
            if not self._queue and not self.draining:
                self._condition.wait(timeout)
            if not self._queue or self.stopped:
                return []
            self._gather(limit)
            messages = [self._queue.popleft() for _ in range(min(limit, len(self._queue)))]
            self._queued_bytes -= sum(len(message.payload) for message in messages)
            if self.fill <= LOW_WATER:
                self._set_paused(False)
        now = time.monotonic()
        elapsed = max(now - self._taken_at, 1e-6)
        self._rate += (len(messages) / elapsed - self._rate) * min(1.0, elapsed / 0.1)
        self._taken_at = now
        return messages

    def begin_peek(self) -> None:
        """Allow one `peek_full`, until `end_peek`."""
        with self._condition:
            self._peeking = True

    def peek_full(self) -> list[Message]:
        """Wait for a full batch and return it, to be taken later; nothing if `end_peek` comes first."""
        limit = self._limits.batch_size
        with self._condition:
            self._condition.wait_for(lambda: self._over or len(self._queue) >= limit)
            return [] if self._over else list(islice(self._queue, limit))

    def end_peek(self) -> None:
        """End the wait of `peek_full`."""
        with self._condition:
            self._peeking = False
            self._condition.notify_all()

    @property
    def _over(self) -> bool:
        return self.stopped or not self._peeking

    def _set_paused(self, paused: bool) -> None:
        if paused != self._paused:
            self._paused = paused
            self._pause(paused)

    def _gather(self, limit: int) -> None:
        """Wait for company as long as it comes: not at all under light load."""
        if self._rate < LOW_RATE:
            return
        deadline = time.monotonic() + min(self._limits.batch_window, limit / 2 / self._rate)
        while len(self._queue) < limit and not self.draining:
            before = len(self._queue)
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                return
            self._condition.wait(min(remaining, QUIET))
            if len(self._queue) == before:
                return
