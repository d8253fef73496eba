"""The bounded queue between the network thread, which fills it, and the worker, which takes batches."""

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
"""Seconds without a new message after which a batch is complete."""

LOW_RATE = 200.0
"""Messages per second. Below this rate the worker does not wait to fill a batch."""

HIGH_WATER, LOW_WATER = 0.4, 0.2
"""Shares of the queue: reading pauses at the first and resumes at the second. The room above the first holds
everything that one read can bring."""


@dataclass(frozen=True, kw_only=True)
class PipelineLimits:
    """Bounds of the queue and of one batch."""

    batch_size: int = 500
    """Messages in one commit."""
    batch_window: float = 0.05
    """Maximum seconds that the worker waits for a batch to fill; under light load it does not wait."""
    queue_messages: int = 10_000
    """Messages in the queue."""
    queue_bytes: int = 32 * 1024 * 1024
    """Bytes of their payloads. A single message may be larger."""
    letter_quota: int = 0
    """Dead letters of one tenant in a day above which the bridge warns; 0 means no limit."""
    retained_return: bool = True
    """Whether a new subscription brings retained messages again. A shared one does not (MQTT 5, 4.8.2)."""
    drop_letters: bool = False
    """Whether it also drops them."""


class Intake:
    """A queue of messages in order of receipt."""

    def __init__(self, limits: PipelineLimits, books: Books, pause: Callable[[bool], None]) -> None:
        """The intake calls `pause` with True when the queue gets full, and with False when there is room again."""
        self._limits = limits
        self._books = books
        self._pause = pause
        self._paused = False
        self._condition = threading.Condition()
        self._queue: deque[Message] = deque()
        self._queued_bytes = 0
        self._arrivals: deque[tuple[float, int]] = deque()
        self.taken_arrivals: list[tuple[float, int]] = []
        """When the messages of the last batch arrived (monotonic clock), and how many each time."""
        self._peeking = False
        self._rate = 0.0
        self._taken_at = time.monotonic()
        self.draining = False
        """True if the queue accepts no more messages."""
        self.stopped = False
        """True if the queued messages are abandoned too."""

    # -- the connection's side ---------------------------------------------------------------------

    def offer(self, messages: list[Message]) -> bool:
        """Queue messages. Return False if there is no room: then the connection must end."""
        size = sum(len(message.payload) for message in messages)
        with self._condition:
            if self.draining:
                self._books.turned_away += len(messages)
                return True
            waiting = len(self._queue)
            fits = waiting + len(messages) <= self._limits.queue_messages
            fits = fits and (self._queued_bytes + size <= self._limits.queue_bytes or not waiting)
            if not fits:
                self._books.overflows += not self._paused
                self._books.turned_away += len(messages)
                self._books.lost_qos0 += sum(message.qos == 0 for message in messages)
                return False
            self._books.take(len(messages))
            self._queue.extend(messages)
            self._arrivals.append((time.monotonic(), len(messages)))
            self._queued_bytes += size
            self._set_paused(self.fill >= HIGH_WATER)
            if not waiting or waiting < self._limits.batch_size <= len(self._queue):
                self._condition.notify_all()
        return True

    def reconnected(self, epoch: int, *, session_present: bool) -> None:
        """Handle connection number `epoch`.

        If the session is present, the broker sends unacknowledged messages again: drop them from the queue.
        If the session is lost, only the queue still has them: keep and commit them, without acknowledgement.
        """
        with self._condition:
            if session_present:
                kept = deque(message for message in self._queue if message.epoch >= epoch or message.qos == 0)
                self._books.give_back(len(self._queue) - len(kept))
                self._queue = kept
                self._arrivals = deque([(time.monotonic(), len(kept))])
                self._queued_bytes = sum(len(message.payload) for message in kept)
            self._set_paused(self.fill >= HIGH_WATER)

    def disconnected(self) -> None:
        """Resume reading even if the queue is full: the client must read the next CONNACK."""
        with self._condition:
            self._set_paused(False)

    @property
    def paused(self) -> bool:
        """True while reading is paused. What arrives nevertheless is the unread rest of an ended connection."""
        return self._paused

    @property
    def queued(self) -> int:
        """Messages in the queue."""
        return len(self._queue)

    @property
    def fill(self) -> float:
        """How full the queue is, 0 to 1."""
        return max(len(self._queue) / self._limits.queue_messages, self._queued_bytes / self._limits.queue_bytes)

    # -- stopping ----------------------------------------------------------------------------------

    def drain(self) -> None:
        """Accept no more messages; `take` still returns the queued ones."""
        with self._condition:
            self.draining = True
            self._condition.notify_all()

    def stop(self) -> None:
        """Abandon the queued messages too: they are not acknowledged, so the broker keeps them."""
        with self._condition:
            self.draining = self.stopped = True
            self._condition.notify_all()

    def wait_stopped(self, timeout: float) -> bool:
        """Wait for `stop`; return True if it has been called."""
        with self._condition:
            return self._condition.wait_for(lambda: self.stopped, timeout)

    # -- the worker's side -------------------------------------------------------------------------

    def take(self, timeout: float) -> list[Message]:
        """Remove and return a batch; an empty one if no message arrived within `timeout` seconds, or after `stop`."""
        limit = self._limits.batch_size
        with self._condition:
            if not self._queue and not self.draining:
                self._condition.wait(timeout)
            if not self._queue or self.stopped:
                return []
            self._gather(limit)
            messages = [self._queue.popleft() for _ in range(min(limit, len(self._queue)))]
            self._queued_bytes -= sum(len(message.payload) for message in messages)
            self.taken_arrivals = self._take_arrivals(len(messages))
            if self.fill <= LOW_WATER:
                self._set_paused(False)
        now = time.monotonic()
        elapsed = max(now - self._taken_at, 1e-6)
        self._rate += (len(messages) / elapsed - self._rate) * min(1.0, elapsed / 0.1)
        self._taken_at = now
        return messages

    def _take_arrivals(self, number: int) -> list[tuple[float, int]]:
        taken = []
        while number and self._arrivals:
            at, count = self._arrivals.popleft()
            if count > number:
                self._arrivals.appendleft((at, count - number))
            taken.append((at, min(count, number)))
            number -= min(count, number)
        return taken

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
        """Wait while more messages arrive; under light load, do not wait."""
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
