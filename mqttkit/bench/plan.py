"""The plan of a run: number of clients, payload size, rate and length."""

from __future__ import annotations

import struct
from dataclasses import dataclass

HEADER = struct.Struct(">IQQ")
"""Publisher, sequence number, scheduled time of sending (CLOCK_MONOTONIC in nanoseconds, of one host)."""
DEFAULT_SECONDS = 10.0


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One run."""

    scenario: str
    topic: str
    """Prefix of the topics."""
    publishers: int = 1
    subscribers: int = 0
    qos: int = 0
    size: int = 283
    """Payload, bytes."""
    rate: float = 0.0
    """Messages per second in total; 0 means as fast as possible."""
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
        """Return whether all messages are sent or the time is over."""
        return sent >= self.count if self.count else elapsed >= self.duration

    def topic_of(self, publisher: int) -> str:
        """Return the topic of a publisher."""
        return f"{self.topic}/{publisher}"


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


def stamp(publisher: int, number: int, when: int, padding: bytes) -> bytes:
    """Return a payload with a header that the receiver reads."""
    return HEADER.pack(publisher, number, when) + padding


def padding_for(size: int) -> bytes:
    """Return the bytes that fill a payload of `size` bytes after its header; none if `size` is smaller."""
    return bytes(max(size - HEADER.size, 0))
