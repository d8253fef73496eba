"""How a command reacts to SIGINT and SIGTERM."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)
INTERRUPTED = 130
"""Exit code."""
REPEAT_SECONDS = 1.0
"""A SIGTERM so soon after the first signal is ignored: `timeout` sends one to the command and one to its group."""


@contextlib.contextmanager
def on_interrupt(action: Callable[[], None]) -> Iterator[None]:
    """Call `action` on the first SIGINT or SIGTERM; the second one raises KeyboardInterrupt.

    `action` runs in the main thread between two instructions: it may set flags and wake queues, but must not lock.
    """

    def handle(_number: int, _frame: FrameType | None) -> None:
        ignored_until = time.monotonic() + REPEAT_SECONDS

        def handle_next(number: int, frame: FrameType | None) -> None:
            if number != signal.SIGTERM or time.monotonic() > ignored_until:
                _raise(number, frame)

        for number in SIGNALS:
            signal.signal(number, handle_next)
        action()

    with _handlers(handle):
        yield


@contextlib.contextmanager
def interrupts_raise() -> Iterator[None]:
    """Raise KeyboardInterrupt on SIGTERM as on SIGINT."""
    with _handlers(_raise):
        yield


def drain_on_signal(stop: Callable[[], None]) -> None:
    """Call `stop` on the first SIGINT or SIGTERM; the second one ends the process with 130, whatever it does."""

    def handle(_number: int, _frame: FrameType | None) -> None:
        for number in SIGNALS:
            signal.signal(number, lambda _number, _frame: os._exit(INTERRUPTED))
        stop()

    for number in SIGNALS:
        signal.signal(number, handle)


def _raise(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


@contextlib.contextmanager
def _handlers(handler: Callable[[int, FrameType | None], Any]) -> Iterator[None]:
    before = {number: signal.signal(number, handler) for number in SIGNALS}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
