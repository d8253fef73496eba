"""The flag that ends a run."""

from __future__ import annotations

import threading
import time

from mqttkit.bench.stop import StopFlag


def test_waiting_ends_when_it_is_set() -> None:
    """By another thread, well before the time is over."""
    flag = StopFlag()
    threading.Timer(0.05, flag.set).start()
    began = time.monotonic()
    assert flag.wait(30)
    assert time.monotonic() - began < 10


def test_waiting_ends_with_the_time() -> None:
    """Not set is not set."""
    flag = StopFlag()
    assert not flag.wait(0.01)
    assert not flag.is_set()


def test_a_run_ends_with_the_whole_and_not_the_other_way_round() -> None:
    """A parent's end is the child's; a child's end is its own."""
    parent = StopFlag()
    child, other = StopFlag(parent), StopFlag(parent)
    child.set()
    assert child.is_set()
    assert not parent.is_set()
    parent.set()
    assert other.is_set()
