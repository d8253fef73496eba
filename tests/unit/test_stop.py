"""The stop flag."""

from __future__ import annotations

import sys
import threading
import time
from types import FrameType
from typing import Any

import pytest

from mqttkit.stop import Stop


class Interrupted(Stop):
    """Sets itself in the waiting thread before a numbered line runs, as a signal handler would."""

    def wait_interrupted(self, line: int) -> bool:
        """Wait, interrupted at that line; return whether the line exists."""
        left = [line]

        def look(_frame: FrameType, event: str, _argument: object) -> Any:
            if event == "line":
                left[0] -= 1
                if left[0] == 0:
                    self.set()
            return look

        before = sys.gettrace()
        sys.settrace(look)
        try:
            assert self.wait(0.01) or left[0] > 0
        finally:
            sys.settrace(before)
        return left[0] <= 0


def test_a_handler_may_set_it_at_any_moment_of_a_wait() -> None:
    """This holds at each line; threading.Event blocks forever at some of them."""
    lines = 0
    while (stop := Interrupted()).wait_interrupted(lines + 1):
        assert stop.wait(0)
        lines += 1
    assert lines >= 2


def test_it_wakes_every_waiter_and_stays_set() -> None:
    """The waiters wake long before their time limit."""
    stop, woken = Stop(), list[bool]()
    threads = [threading.Thread(target=lambda: woken.append(stop.wait(100))) for _ in range(5)]
    for thread in threads:
        thread.start()
    stop.set()
    stop.set()
    for thread in threads:
        thread.join(60)
    assert woken == [True] * 5
    assert stop.is_set


@pytest.mark.parametrize("seconds", [0.0, 0.05])
def test_without_it_a_wait_takes_its_time(seconds: float) -> None:
    """It returns False after that time."""
    stop, before = Stop(), time.monotonic()
    assert not stop.wait(seconds)
    assert time.monotonic() - before >= seconds
