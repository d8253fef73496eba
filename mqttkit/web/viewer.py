"""One page that is open in a browser: the events that wait for it."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence

QUEUE_BYTES = 4 * 1024 * 1024
"""Bytes that may wait for a viewer. If it reads too slowly, they are dropped, and it gets a snapshot instead."""


class Viewer:
    """A bounded queue of events. Any thread may call the methods; none but `take` waits."""

    def __init__(self, *, queue_bytes: int = QUEUE_BYTES) -> None:
        self.lost = 0
        """Messages dropped because the viewer was too slow."""
        self.needs_snapshot = True
        """True at the start, and after events were dropped: what follows makes sense only after a snapshot."""
        self.generation = 0
        """Number of snapshots so far. An event made for an earlier one must not arrive after a newer one."""
        self._queue: deque[tuple[bytes, int]] = deque()
        self._bytes = 0
        self._limit = queue_bytes
        self._closed = False
        self._condition = threading.Condition()

    @property
    def closed(self) -> bool:
        """True once the server ends."""
        return self._closed

    def put(self, event: bytes, messages: int, *, generation: int) -> None:
        """Add an event that carries this number of messages and follows the snapshot with this number."""
        with self._condition:
            if self.needs_snapshot or generation != self.generation:
                self.lost += messages
            else:
                self._queue.append((event, messages))
                self._bytes += len(event)
                if self._bytes > self._limit:
                    self._drop()
            self._condition.notify()

    def drop_all(self, messages: int) -> None:
        """Drop the waiting events, and this number of messages more; a snapshot has to follow."""
        with self._condition:
            self.lost += messages
            self._drop()
            self._condition.notify()

    def begin(self) -> None:
        """Accept events again: the caller has made a snapshot."""
        with self._condition:
            self.needs_snapshot = False
            self.generation += 1

    def take(self, seconds: float) -> Sequence[bytes]:
        """Return the events that wait, after at most `seconds`. Nothing if there are none or a snapshot is needed."""
        with self._condition:
            if not (self._queue or self.needs_snapshot or self._closed):
                self._condition.wait(seconds)
            events = [event for event, _ in self._queue]
            self._queue.clear()
            self._bytes = 0
            return events

    def close(self) -> None:
        """Let `take` return."""
        with self._condition:
            self._closed = True
            self._condition.notify()

    def _drop(self) -> None:
        self.lost += sum(messages for _, messages in self._queue)
        self._queue.clear()
        self._bytes = 0
        self.needs_snapshot = True
