"""Convert messages to bytes and back: payload lines, topic lines, format strings, JSON lines. Pure.

A formatter turns a batch of messages and the time of their arrival into one block of bytes, so that a command writes
once per batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mqttkit.messages import Message

Formatter = Callable[[Sequence[Message], int], bytes]
"""(messages, time of arrival in nanoseconds since 1970-01-01 UTC) -> the bytes to write."""


def payload_formatter(end: bytes = b"\n") -> Formatter:
    """Write each payload unchanged, followed by `end`."""

    def write(messages: Sequence[Message], _when: int) -> bytes:
        return end.join([message.payload for message in messages]) + end if messages else b""

    return write


def verbose_formatter(end: bytes = b"\n") -> Formatter:
    """Write topic name, a space, the payload and `end`. An empty payload is `(null)`, as in mosquitto_sub."""

    def write(messages: Sequence[Message], _when: int) -> bytes:
        topics: dict[str, bytes] = {}
        parts: list[bytes] = []
        for message in messages:
            head = topics.get(message.topic)
            if head is None:
                head = topics[message.topic] = message.topic_bytes + b" "
            parts += (head, message.payload or b"(null)", end)
        return b"".join(parts)

    return write
