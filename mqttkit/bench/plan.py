"""What a run does: how many clients, what they send, how fast, how long. Pure."""

from __future__ import annotations

import struct
from dataclasses import dataclass

HEADER = struct.Struct(">IQQ")
"""Publisher, number in its stream, when it was to be sent (CLOCK_MONOTONIC, nanoseconds): one host's clock."""
DEFAULT_SECONDS = 10.0


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One run."""

    scenario: str
    topic: str
    """Prefix of the topics used."""
    publishers: int = 1
    subscribers: int = 0
    qos: int = 0
    size: int = 283
    """Payload, bytes."""
    rate: float = 0.0
    """Messages a second in all; 0 is flat out."""
    duration: float = 0.0
    """Seconds, where `count` is 0."""
    count: int = 0
    """Messages in all."""
    drain: float = 5.0
    """Seconds to wait for messages once nothing new comes, and for acknowledgements."""
    interval: float = 0.25
    """Seconds between points of the plot."""
    source: str = ""
    """Scan: the recording that is replayed; a shipped one where it is empty."""
    tls: bool = False
    """Over TLS."""
    websockets: bool = False
    """Over WebSockets."""

    def over(self, sent: int, elapsed: float) -> bool:
        """Tell whether nothing more is to be sent."""
        return sent >= self.count if self.count else elapsed >= self.duration

    def topic_of(self, publisher: int) -> str:
        """Return the topic of a publisher."""
        return f"{self.topic}/{publisher}"


@dataclass(frozen=True)
class Sent:
    """What the publishing side did."""

    messages: tuple[int, ...]
    """By publisher."""
    seconds: float
    """From the first publish to the last outcome."""
    cpu: float
    """Seconds of CPU in that time, kernel included."""
    outcomes: dict[str, int]
    """Resolved publishes by outcome."""
    behind: float
    """How late the publisher was at worst, seconds: at a fixed rate, a load generator that cannot keep up."""
    error: str = ""
    """Why it ended early."""
    exit_code: int = 0
    """The error's."""
    memory: int = 0
    """Peak resident memory of the publishing process, bytes."""


def stamp(publisher: int, number: int, when: int, padding: bytes) -> bytes:
    """Return a payload that can be followed."""
    return HEADER.pack(publisher, number, when) + padding


def padding_for(size: int) -> bytes:
    """Return what fills a payload of `size` bytes behind its header; the header stays where size is smaller."""
    return bytes(max(size - HEADER.size, 0))
