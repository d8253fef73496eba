"""Messages to bytes and back: payload lines, topic lines, format strings, JSON lines. Pure.

A formatter turns a batch of messages and the time of their receipt into one block of bytes, so that a
command writes once a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mqttkit.messages import Message

Formatter = Callable[[Sequence[Message], int], bytes]
"""(messages, nanoseconds since 1970-01-01 UTC at which they came) -> what is written."""


def payload_formatter(end: bytes = b"\n") -> Formatter:
    """Write each payload exactly as it came, and `end` after it."""

    def write(messages: Sequence[Message], _when: int) -> bytes:
        return end.join([message.payload for message in messages]) + end

    return write


def verbose_formatter(end: bytes = b"\n") -> Formatter:
    """Write topic name, a space and payload, and `end` after them."""

    def write(messages: Sequence[Message], _when: int) -> bytes:
        topics: dict[str, bytes] = {}
        parts: list[bytes] = []
        for message in messages:
            head = topics.get(message.topic)
            if head is None:
                head = topics[message.topic] = message.topic_bytes + b" "
            parts += (head, message.payload, end)
        return b"".join(parts)

    return write
