"""The queue between the scanner's thread and the publisher's."""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter, deque
from collections.abc import Callable

from mqttkit.scanner.advertisement import Advertisement

QUEUE_FULL, TOO_OLD = "scan queue full", "too old"
"""Causes of a drop."""


Arrival = tuple[float, int, Advertisement]
"""When an advertisement arrived on the monotonic clock, its number counted from 1, and the advertisement."""


class HandOverQueue:
    """A bounded queue whose `put` never blocks: it drops the oldest advertisement, and any older than `max_age`.

    A `lossless` queue drops nothing; its `put` waits until the queue is empty.
    """

    def __init__(
        self,
        size: int,
        *,
        max_age: float = float("inf"),
        lossless: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.dropped: Counter[str] = Counter()
        self.ended = False
        self._size = size
        self._max_age = max_age
        self._lossless = lossless
        self._clock = clock
        self._items: deque[Arrival] = deque()
        self._arrived = 0
        self._condition = threading.Condition()
        self._idle = False

    def __len__(self) -> int:
        return len(self._items)

    def put(self, items: list[Advertisement]) -> None:
        """Add advertisements that have just arrived."""
        with self._condition:
            if self._lossless:
                self._condition.wait_for(lambda: not self._items or self.ended)
            now = self._clock()
            first = self._arrived + 1
            self._arrived += len(items)
            self._items.extend(zip(itertools.repeat(now), range(first, self._arrived + 1), items))
            if not self._lossless:
                self._drop_oldest(now)
            if self._idle:
                self._condition.notify_all()

    def expire(self) -> None:
        """Drop advertisements that are too old."""
        with self._condition:
            if not self._lossless:
                self._drop_oldest(self._clock())

    def end(self) -> None:
        """Wake both threads: either the scan has ended, or no one takes advertisements any more."""
        with self._condition:
            self.ended = True
            self._condition.notify_all()

    def take(self, count: int, timeout: float) -> list[Arrival]:
        """Return up to `count` advertisements; wait up to `timeout` seconds for one."""
        with self._condition:
            if not self._items and not self.ended:
                self._idle = True
                self._condition.wait(timeout)
                self._idle = False
            if not self._lossless:
                self._drop_oldest(self._clock())
            items = [self._items.popleft() for _ in range(min(count, len(self._items)))]
            if self._lossless and not self._items:
                self._condition.notify_all()
            return items

    def _drop_oldest(self, now: float) -> None:
        items = self._items
        oldest = now - self._max_age
        while items and items[0][0] < oldest:
            items.popleft()
            self.dropped[TOO_OLD] += 1
        while len(items) > self._size:
            items.popleft()
            self.dropped[QUEUE_FULL] += 1
