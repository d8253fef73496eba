"""The receiving side of a run: counts, sequence numbers, and latencies over time."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass

from mqttkit.bench.histogram import LatencyHistogram
from mqttkit.bench.plan import HEADER, Plan
from mqttkit.bench.sequence import Sequence
from mqttkit.messages import Message

Reader = Callable[[Message], tuple[int, int, int]]
"""Reads publisher, sequence number and scheduled time (nanoseconds) from a message."""

AHEAD_NS = 1_000_000_000
"""No message arrives so long before it was due: both times are of this machine's clock."""


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


class _HeaderReader:
    """Reads the header of a payload of `plan.stamp`, and the publisher from the topic."""

    def __init__(self, plan: Plan) -> None:
        self._publishers = {plan.topic_of(number): number for number in range(plan.publishers)}

    def __call__(self, message: Message) -> tuple[int, int, int]:
        return (self._publishers[message.topic], *HEADER.unpack_from(message.payload))


class MessageReceiver:
    """Counts the messages of all publishers for all subscribers of a fleet; `receive` runs in its loop."""

    def __init__(self, plan: Plan, *, read: Reader | None = None, clock: Callable[[], int] = time.monotonic_ns) -> None:
        self.received = 0
        self.foreign = 0
        """Messages that none of the publishers has sent."""
        self.bytes = 0
        self.last = 0
        """Time of the last message in nanoseconds of the clock; 0 if there is none."""
        self.first = 0
        self.sequences: dict[tuple[int, int], Sequence] = {}
        """By subscriber (0 for all of a shared subscription) and publisher."""
        self.points: list[Point] = []
        self.latencies = LatencyHistogram()
        self._plan = plan
        self._is_shared = plan.layout == "shared"
        self._interval = int(plan.interval * 1e9)
        self._current = LatencyHistogram()
        self._counted = 0
        self._since = 0
        self._read = read or _HeaderReader(plan)
        self._clock = clock

    def receive(self, subscriber: int, messages: list[Message]) -> None:
        """Count messages that arrived together at a subscriber."""
        now = self._clock()
        own = len(messages)
        if self._plan.numbered:
            own = self._check(0 if self._is_shared else subscriber, messages, now)
            self.foreign += len(messages) - own
        if not own:
            return
        if not self.first:
            self.first = self._since = now
        self.bytes += sum([len(message.payload) for message in messages])
        self.received += own
        self._counted += own
        self.last = now
        if now - self._since >= self._interval:
            self.end_interval(now)

    def _check(self, subscriber: int, messages: list[Message], now: int) -> int:
        """Count the messages of the publishers by number and latency; return how many they are."""
        read, sequences, found = self._read, self.sequences, []
        for message in messages:
            try:
                publisher, number, when = read(message)
            except (LookupError, TypeError, ValueError, struct.error):
                continue
            if when > now + AHEAD_NS:
                continue
            sequence = sequences.get((subscriber, publisher))
            if sequence is None:
                sequence = sequences[subscriber, publisher] = Sequence()
            sequence.add(number)
            found.append(now - when)
        self._current.add_all(found)
        return len(found)

    def end_interval(self, now: int) -> None:
        """End the current interval. The caller ends the last one of a run."""
        current, self._current = self._current, LatencyHistogram()
        seconds = max(now - self._since, 1) / 1e9
        if self._counted:
            summary = {"p50": 0.0, "p99": 0.0, "max": 0.0} | current.summary()
            rate = self._counted / seconds
            self.points.append(Point((now - self.first) / 1e9, rate, summary["p50"], summary["p99"], summary["max"]))
            self.latencies.merge(current)
        self._since, self._counted = now, 0

    def lost(self, published: Mapping[int, int]) -> int:
        """Return how many messages are missing, given the number of each publisher's."""
        expected = self._plan.expected(published)
        if not self._plan.numbered:
            return max(sum(expected.values()) - self.received, 0)
        return sum(self.sequences.get(stream, NONE).lost(count) for stream, count in expected.items())

    @property
    def duplicated(self) -> int:
        """Messages that arrived again."""
        return sum(sequence.duplicated for sequence in self.sequences.values())

    @property
    def reordered(self) -> int:
        """Messages that arrived after a later one of their publisher; a shared subscription has no order."""
        return 0 if self._is_shared else sum(sequence.reordered for sequence in self.sequences.values())

    def as_points(self) -> list[dict[str, float]]:
        """Return the intervals for JSON."""
        return [asdict(point) for point in self.points]


NONE = Sequence()
"""Of a publisher from which nothing came."""


class ArrivalWatch:
    """Whether everything has arrived, or nothing more comes."""

    def __init__(self, receiver: MessageReceiver, expected: int, drain: float) -> None:
        self._receiver, self._expected, self._drain = receiver, expected, drain
        self._seen, self._since = -1, time.monotonic()

    @property
    def over(self) -> bool:
        """True if all `expected` messages are there, or none has arrived for `drain` seconds."""
        received, now = self._receiver.received, time.monotonic()
        if received != self._seen:
            self._seen, self._since = received, now
        return received >= self._expected or now - self._since >= self._drain
