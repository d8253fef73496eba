"""Convert messages to bytes and back: payload lines, topic lines, format strings, JSON lines. Pure.

A formatter turns a batch of messages and the time of their arrival into one block of bytes, so that a command writes
once per batch. The formatters here read topic name and payload by their places 0 and 1 in Message: they also take
tuples without names, see `mqttkit.client.control.deliver_plain`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mqttkit.messages import Message

Formatter = Callable[[Sequence[Message], int], bytes]
"""(messages, time of arrival in nanoseconds since 1970-01-01 UTC) -> the bytes to write."""


def payload_formatter(end: bytes = b"\n") -> Formatter:
    """Write each payload unchanged, followed by `end`."""

    def write(messages: Sequence[Message], _when: int) -> bytes:
        return end.join([message[1] for message in messages]) + end if messages else b""

    return write


def verbose_formatter(end: bytes = b"\n") -> Formatter:
    """Write topic name, a space, the payload and `end`. An empty payload is `(null)`, as in mosquitto_sub."""

    def write(messages: Sequence[Message], _when: int) -> bytes:
        topics: dict[str, bytes] = {}
        parts: list[bytes] = []
        for message in messages:
            topic = message[0]
            head = topics.get(topic)
            if head is None:
                head = topics[topic] = topic.encode("utf-8", "surrogateescape") + b" "
            parts += (head, message[1] or b"(null)", end)
        return b"".join(parts)

    return write
