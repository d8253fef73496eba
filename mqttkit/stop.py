"""A flag that a signal handler may set while the same thread waits for it; threading.Event can deadlock there."""

from __future__ import annotations

import threading


class Stop:
    """A flag that is set once and stays set; other threads wait for it.

    threading.Event takes a lock in `set` and in `wait`: a signal handler that sets it while its own thread enters
    `wait` blocks forever.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()
        self.is_set = False

    def set(self) -> None:
        """Wake every waiter; never blocks. Any thread or signal handler may call it."""
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
