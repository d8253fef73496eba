"""How far a long command is: percentage and time left, on stderr, on a terminal only."""

from __future__ import annotations

import contextlib
import os
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterator

INTERVAL = 0.5
"""Seconds between two updates."""
SILENT_SECONDS = 1.0
"""Seconds after which the first line appears: a short command shows none."""


@contextlib.contextmanager
def progress(share: Callable[[], float], *, what: str = "") -> Iterator[None]:
    """Show every half second, from a separate thread, how far the body is; `share` returns 0 to 1."""
    if not sys.stderr.isatty():
        yield
        return
    ended, began = threading.Event(), time.monotonic()

    def watch() -> None:
        while not ended.wait(INTERVAL):
            elapsed = time.monotonic() - began
            if elapsed >= SILENT_SECONDS:
                _write(f"{progress_text(share(), elapsed)}{f', {what}' if what else ''}\x1b[K\r")

    thread = threading.Thread(target=watch, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        _write("\x1b[K")


def progress_text(share: float, elapsed: float) -> str:
    """Return percentage and time left, such as ` 42 %, 1:05 left`; the time once it can be estimated."""
    share = min(max(share, 0.0), 1.0)
    if share < 0.01:
        return f"{share:4.0%}".replace("%", " %")
    left = round(elapsed * (1 - share) / share)
    minutes, seconds = divmod(left, 60)
    hours, minutes = divmod(minutes, 60)
    clock = f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
    return f"{share:4.0%}, {clock} left".replace("%", " %")


def share_of_stdin() -> Callable[[], float] | None:
    """Return how much of stdin has been read; None if it is a pipe, whose size is unknown."""
    try:
        descriptor = sys.stdin.fileno()
        state = os.fstat(descriptor)
    except (OSError, ValueError):
        return None
    if not stat.S_ISREG(state.st_mode) or not state.st_size:
        return None
    return lambda: os.lseek(descriptor, 0, os.SEEK_CUR) / state.st_size


def _write(text: str) -> None:
    """Write to the terminal; if it has gone, the command itself reports that."""
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.write(text)
        sys.stderr.flush()
