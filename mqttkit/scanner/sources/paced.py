"""Sources that emit advertisements on a schedule."""

from __future__ import annotations

import dataclasses
import time
from abc import abstractmethod
from collections.abc import Iterable, Iterator

from mqttkit.scanner.advertisement import Advertisement
from mqttkit.scanner.sources.protocol import Source
from mqttkit.stop import Stop

SHORTEST_WAIT = 0.001
"""Seconds. Advertisements due within this time leave together, so that a high rate needs few wake-ups."""
LARGEST_BATCH = 100
"""Advertisements per batch at most."""


class PacedSource(Source):
    """A source without a radio: `upcoming` gives its advertisements and their times."""

    def __init__(self) -> None:
        self._stop = Stop()
        self._ended = False

    @property
    def scanning(self) -> bool:
        """Implement Source."""
        return not (self._stop.is_set or self._ended)

    @abstractmethod
    def upcoming(self) -> Iterable[tuple[float, Advertisement]]:
        """Yield (seconds after the start, advertisement). `batches` sets the time stamp."""

    def close(self) -> None:
        """Implement Source."""
        self._stop.set()

    def batches(self) -> Iterator[list[Advertisement]]:
        """Implement Source."""
        start = now = time.monotonic()
        batch: list[Advertisement] = []
        for offset, advertisement in self.upcoming():
            due = start + offset
            if due > now or len(batch) >= LARGEST_BATCH:
                if batch:
                    yield batch
                    batch = []
                now = time.monotonic()
                if due > now:
                    self._stop.wait(max(due - now, SHORTEST_WAIT))
                    now = time.monotonic()
            if self._stop.is_set:
                return
            batch.append(dataclasses.replace(advertisement, timestamp=time.time()))
        self._ended = True
        if batch:
            yield batch
