"""A flag that a signal handler may set while the same thread waits for it, which threading.Event does not allow."""

from __future__ import annotations

import time

STEP = 0.05


class StopFlag:
    """Set once; waiters notice within STEP seconds."""

    def __init__(self) -> None:
        self._set = False

    def set(self) -> None:
        """Set it. Any thread or signal handler may call it."""
        self._set = True

    def is_set(self) -> bool:
        """Tell whether it is set."""
        return self._set

    def wait(self, seconds: float) -> bool:
        """Wait until it is set, at most the seconds given; return whether it is set."""
        deadline = time.monotonic() + seconds
        while not self._set and (left := deadline - time.monotonic()) > 0:
            time.sleep(min(left, STEP))
        return self._set
