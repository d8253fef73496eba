"""What a running controller does, as a stream of JSON objects that ends on a signal or after a time."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

from mqttkit.controller.roles import LocalController
from mqttkit.controller.simulation.subnet_scan import discover

Event = Mapping[str, Any]


class EventLines:
    """A queue of events. Any thread may put; one thread iterates, and asks for the next when an event is written."""

    def __init__(self, duration: float | None = None) -> None:
        """End after `duration` seconds, counted from now."""
        self.ended = False
        self._put = self._written = 0
        self._closed = False
        self._condition = threading.Condition()
        self._queue: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        self._end = None if duration is None else time.monotonic() + duration

    def put(self, event: Event) -> None:
        """Add an event."""
        with self._condition:
            self._put += 1
            self._queue.put(event)

    def flush(self) -> bool:
        """Wait until every event put before is written; return False if that will not happen. Not for the iterator."""
        with self._condition:
            wanted = self._put
            self._condition.wait_for(lambda: self._closed or self._written >= wanted)
            return self._written >= wanted

    def close(self) -> None:
        """Release `flush`: nothing is written any more."""
        with self._condition:
            self._closed = True
            self._condition.notify_all()

    def stop(self) -> None:
        """End the stream after the events put before. Any thread or signal handler may call it."""
        self._queue.put(None)

    def until(self, moment: float | None = None) -> Iterator[Event]:
        """Yield events up to a moment of the monotonic clock, or to the end; then `ended` says which it was."""
        while not self.ended:
            moments = [one for one in (moment, self._end) if one is not None]
            try:
                event = self._queue.get(timeout=max(0.0, min(moments) - time.monotonic()) if moments else None)
            except queue.Empty:
                self.ended = self._end is not None and time.monotonic() >= self._end
                return
            if event is None:
                self.ended = True
                return
            yield event
            with self._condition:
                self._written += 1
                self._condition.notify_all()


def report_subnet(
    controller: LocalController, lines: EventLines, *, subnet: str, interval: float, cycles: int | None, seed: int
) -> Iterator[Event]:
    """Scan (simulated) and report a subnet every `interval` seconds, `cycles` times or until `lines` end.

    The seed counts up with each cycle. Yields the reports and the events of `lines`.
    """
    done = 0
    while (cycles is None or done < cycles) and not lines.ended:
        report = {"cycle": done + 1, **discover(subnet, seed=seed + done)}
        controller.publish_discovery_report(report)
        done += 1
        lines.put({"report": done, "subnet": subnet, **report["scans"], "devices": len(report["devices"])})
        yield from lines.until(time.monotonic() + (interval if done != cycles else 0.0))
