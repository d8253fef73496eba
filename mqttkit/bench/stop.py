"""A flag that a signal handler may set while the same thread waits for it, which threading.Event does not allow."""

from __future__ import annotations

import time

STEP = 0.05


class StopFlag:
    """Set once; waiters notice within STEP seconds. One with a `parent` counts as set where that is."""

    def __init__(self, parent: StopFlag | None = None) -> None:
        self._set = False
        self._parent = parent

    def set(self) -> None:
        """Set it. Any thread or signal handler may call it."""
        self._set = True

    def is_set(self) -> bool:
        """Tell whether it is set."""
        return self._set or (self._parent is not None and self._parent.is_set())

    def wait(self, seconds: float) -> bool:
        """Wait until it is set, at most the seconds given; return whether it is set."""
        deadline = time.monotonic() + seconds
        while not self.is_set() and (left := deadline - time.monotonic()) > 0:
            time.sleep(min(left, STEP))
        return self.is_set()
