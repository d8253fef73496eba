"""What SIGINT and SIGTERM do while a command runs."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def on_interrupt(action: Callable[[], None]) -> Iterator[None]:
    """Call `action` on the first SIGINT or SIGTERM; the second one raises KeyboardInterrupt.

    `action` runs in the main thread, between two of its instructions: it may set flags and wake queues, not lock.
    """

    def handle(_number: int, _frame: FrameType | None) -> None:
        for number in SIGNALS:
            signal.signal(number, _raise)
        action()

    with _handlers(handle):
        yield


@contextlib.contextmanager
def interrupts_raise() -> Iterator[None]:
    """Raise KeyboardInterrupt on SIGTERM as on SIGINT."""
    with _handlers(_raise):
        yield


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
