"""The receiving side of a run: counts, sequence numbers, and latencies over time."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

from mqttkit.bench.histogram import Histogram
from mqttkit.bench.plan import HEADER, Plan
from mqttkit.bench.sequence import Sequence
from mqttkit.messages import Message

Reader = Callable[[Message], tuple[int, int, int]]
"""Reads publisher, sequence number and scheduled time (nanoseconds) from a message."""


@dataclass(frozen=True)
class Point:
    """The messages of one interval."""

    seconds: float
    """The end of the interval, since the first message."""
    rate: float
    """Messages per second."""
    p50: float
    """Milliseconds."""
    p99: float
    max: float


def read_header(message: Message) -> tuple[int, int, int]:
    """Read the header of a payload of `plan.stamp`."""
    return HEADER.unpack_from(message.payload)


class MessageReceiver:
    """Counts the messages of all publishers for one subscriber; `receive` runs in its network thread."""

    def __init__(self, plan: Plan, *, read: Reader = read_header, clock: Callable[[], int] = time.monotonic_ns) -> None:
        self.received = 0
        self.bytes = 0
        self.last = 0
        """Time of the last message in nanoseconds of the clock; 0 if there is none."""
        self.first = 0
        self.sequences = [Sequence() for _ in range(plan.publishers)]
        self.points: list[Point] = []
        self.latencies = Histogram()
        self._interval = int(plan.interval * 1e9)
        self._current = Histogram()
        self._since = 0
        self._read = read
        self._clock = clock

    def receive(self, messages: list[Message]) -> None:
        """Count messages that arrived together."""
        now = self._clock()
        if not self.first:
            self.first = self._since = now
        read, sequences, found = self._read, self.sequences, []
        size = 0
        for message in messages:
            publisher, number, when = read(message)
            sequences[publisher].add(number)
            found.append(now - when)
            size += len(message.payload)
        self._current.add_all(found)
        self.bytes += size
        self.received += len(messages)
        self.last = now
        if now - self._since >= self._interval:
            self.end_interval(now)

    def end_interval(self, now: int) -> None:
        """End the current interval. The caller ends the last one of a run."""
        current, self._current = self._current, Histogram()
        seconds = max(now - self._since, 1) / 1e9
        if current.total:
            summary = current.summary()
            self.points.append(
                Point((now - self.first) / 1e9, current.total / seconds, summary["p50"], summary["p99"], summary["max"])
            )
            self.latencies.merge(current)
        self._since = now

    def as_points(self) -> list[dict[str, float]]:
        """Return the intervals for JSON."""
        return [asdict(point) for point in self.points]


def wait_for_all(receivers: list[MessageReceiver], expected: int, drain: float, ended: Callable[[], bool]) -> None:
    """Wait until each receiver has `expected` messages, or no message arrives for `drain` seconds."""
    seen, since = -1, time.monotonic()
    while not ended():
        received = [receiver.received for receiver in receivers]
        if all(count >= expected for count in received):
            return
        now = time.monotonic()
        if sum(received) != seen:
            seen, since = sum(received), now
        elif now - since >= drain:
            return
        time.sleep(0.02)
