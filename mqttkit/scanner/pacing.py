"""Waiting that can be cut short, and sources that emit at a pace."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from types import TracebackType
from typing import TypeVar

from mqttkit.scanner.advertisement import Advertisement

SHORTEST_WAIT = 0.001
"""Seconds: what is due within it leaves together, so that high rates do not cost a wake-up each."""

_Self = TypeVar("_Self", bound="PacedSource")


class Stop:
    """A flag that is set once and that others wait for.

    Unlike threading.Event it may be set in a signal handler while the same thread waits for it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()
        self.is_set = False

    def set(self) -> None:
        """Wake every waiter; never blocks."""
        self.is_set = True
        try:
            self._lock.release()
        except RuntimeError:
            return  # it was set already

    def wait(self, seconds: float) -> bool:
        """Wait until it is set, at most the seconds given; return whether it is set."""
        if self._lock.acquire(timeout=seconds):
            self.set()
        return self.is_set


class PacedSource:
    """A source that makes its advertisements itself: `upcoming` says what comes and when."""

    def __init__(self) -> None:
        self._stop = Stop()
        self._ended = False
        self._dropped: dict[str, int] = {}

    @property
    def scanning(self) -> bool:
        """See Source."""
        return not (self._stop.is_set or self._ended)

    @property
    def dropped(self) -> Mapping[str, int]:
        """See Source."""
        return self._dropped

    def upcoming(self) -> Iterable[tuple[float, Advertisement]]:
        """Yield (seconds after the start, advertisement); its time stamp is set when it leaves."""
        raise NotImplementedError

    def close(self) -> None:
        """See Source."""
        self._stop.set()

    def __enter__(self: _Self) -> _Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __iter__(self) -> Iterator[Advertisement]:
        start = now = time.monotonic()
        for offset, advertisement in self.upcoming():
            if start + offset > now:
                now = time.monotonic()
            if start + offset > now:
                self._stop.wait(max(start + offset - now, SHORTEST_WAIT))
            if self._stop.is_set:
                return
            yield dataclasses.replace(advertisement, timestamp=time.time())
        self._ended = True
