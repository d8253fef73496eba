"""The plan of a run: number of clients, payload size, rate and length."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass

from mqttkit.messages import Subscription

HEADER = struct.Struct(">QQ")
"""Sequence number, scheduled time of sending (CLOCK_MONOTONIC in nanoseconds, of one host); the topic names the
publisher. A smaller payload has no header."""
DEFAULT_SECONDS = 10.0
GROUP = "mqttkit-bench"
"""Name of the group of a shared subscription."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One run."""

    scenario: str
    topic: str
    """Prefix of the topics."""
    publishers: int = 1
    subscribers: int = 0
    layout: str = "all"
    """Who receives: `all` subscribers everything, `pairs` subscriber n what publisher n publishes, or `shared`:
    one subscriber each message."""
    qos: int = 0
    size: int = 283
    """Payload, bytes."""
    rate: float = 0.0
    """Messages per second in total; 0 means as fast as possible."""
    connect_rate: float = 0.0
    """New connections per second; 0 means as fast as possible."""
    duration: float = 0.0
    """Seconds, if `count` is 0."""
    count: int = 0
    """Messages in total."""
    drain: float = 5.0
    """Seconds to wait for further messages at the end, and for acknowledgements."""
    interval: float = 0.25
    """Seconds between points of the plot."""
    source: str = ""
    """Scan: the recording to replay; if empty, the one in the package."""
    tls: bool = False
    """Use TLS."""
    websockets: bool = False
    """Use WebSockets."""

    def over(self, sent: int, elapsed: float) -> bool:
        """Return whether all messages are sent or the time is up."""
        return sent >= self.count if self.count else elapsed >= self.duration

    def done(self, seconds: float, sent: int, received: int) -> float:
        """Return the completed share of the run, 0 to 1: by messages if `count` is set, else by time."""
        if not self.count:
            return min(seconds / self.duration, 1.0) if self.duration else 0.0
        deliveries = self.count * (self.subscribers if self.layout == "all" else 1)
        return max(sent / self.count, received / deliveries if deliveries else 0.0)

    def topic_of(self, publisher: int) -> str:
        """Return the topic of a publisher."""
        return f"{self.topic}/{publisher}"

    @property
    def numbered(self) -> bool:
        """True if a payload has room for its number and its time."""
        return self.scenario == "scan" or self.size >= HEADER.size

    def subscriptions(self) -> list[Subscription]:
        """Return the subscription of each subscriber."""
        if self.layout == "pairs":
            return [Subscription(self.topic_of(number), qos=self.qos) for number in range(self.subscribers)]
        share = f"$share/{GROUP}/" if self.layout == "shared" else ""
        return [Subscription(f"{share}{self.topic}/#", qos=self.qos)] * self.subscribers

    def expected(self, published: Mapping[int, int]) -> dict[tuple[int, int], int]:
        """Return how many messages should arrive, by subscriber (0 for all of a shared one) and publisher."""
        if self.layout == "pairs":
            return {(number, number): count for number, count in published.items() if number < self.subscribers}
        groups = 1 if self.layout == "shared" else self.subscribers
        return {(group, number): count for group in range(groups) for number, count in published.items()}


@dataclass(frozen=True)
class Sent:
    """The numbers of the publishing side."""

    messages: tuple[int, ...]
    """Messages per publisher."""
    seconds: float
    """From the first publish to the last outcome."""
    cpu: float
    """CPU seconds in that time, user and kernel."""
    outcomes: dict[str, int]
    """Finished publishes by outcome."""
    behind: float
    """The largest delay behind the schedule in seconds, for a fixed rate."""
    error: str = ""
    """Why it ended early; empty if it did not."""
    exit_code: int = 0
    """The exit code of that error."""
    memory: int = 0
    """Peak resident memory of the publishing process, bytes."""


def stamp(number: int, when: int, padding: bytes) -> bytes:
    """Return a payload with a header that the receiver reads."""
    return HEADER.pack(number, when) + padding


def padding_for(size: int) -> bytes:
    """Return the bytes that fill a payload of `size` bytes after its header; the whole payload if it has none."""
    return bytes(size - HEADER.size if size >= HEADER.size else size)
