"""The queue of one viewer."""

from __future__ import annotations

import threading

from mqttkit.web.viewer import Viewer


def ready_viewer(**limits: int) -> Viewer:
    viewer = Viewer(**limits)
    viewer.begin()
    return viewer


def test_events_come_in_order() -> None:
    viewer = ready_viewer()
    viewer.put(b"one", 1, generation=1)
    viewer.put(b"two", 1, generation=1)
    assert viewer.take(0) == [b"one", b"two"]
    assert viewer.take(0) == []


def test_a_full_queue_is_dropped_counted_and_needs_a_snapshot() -> None:
    viewer = ready_viewer(queue_bytes=10)
    viewer.put(b"12345", 3, generation=1)
    viewer.put(b"678901", 4, generation=1)
    assert (viewer.lost, viewer.needs_snapshot) == (7, True)
    viewer.put(b"later", 5, generation=1)
    assert (viewer.lost, viewer.take(0)) == (12, [])
    viewer.begin()
    viewer.put(b"after", 1, generation=2)
    assert viewer.take(0) == [b"after"]


def test_an_event_made_for_an_earlier_snapshot_is_lost() -> None:
    """Its topics may have other numbers by now, and the newer snapshot counts its messages already."""
    viewer = ready_viewer()
    viewer.drop_all(0)
    viewer.begin()
    viewer.put(b"old", 2, generation=1)
    assert (viewer.take(0), viewer.lost) == ([], 2)


def test_closing_wakes_who_waits() -> None:
    viewer = ready_viewer()
    found: list[object] = []
    waiting = threading.Thread(target=lambda: found.append(viewer.take(60)))
    waiting.start()
    viewer.close()
    waiting.join(60)
    assert found == [[]]
    assert viewer.closed
