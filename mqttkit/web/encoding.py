"""What the page receives, as JSON in server-sent events. Pure.

Times are milliseconds since the epoch. A topic has a number, which the page uses instead of its name.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import msgspec

from mqttkit.formats.visible import visible
from mqttkit.messages import Message

PREVIEW_BYTES = 256
"""Bytes of a payload in a batch; the page requests the rest of the payload that the user looks at."""
CHUNK = 2_000
"""Topics in one event of a snapshot."""
RETAINED, CUT = 1, 2
"""Flags of a sample: the broker retains it; the preview is not the whole payload."""

encode = msgspec.json.Encoder().encode


class TopicState(NamedTuple):
    """What a snapshot says about a topic."""

    number: int
    topic: str
    message: Message
    received: int
    """Messages received on it."""
    rate: float
    """Messages per second."""
    when: float
    """Time of the latest message, on the monotonic clock."""
    retained: bool


class Part(NamedTuple):
    """Messages that arrived together."""

    when: float
    """On the monotonic clock."""
    messages: Sequence[Message]


def event(name: str, content: object) -> bytes:
    """Return a server-sent event."""
    return b"event: %s\ndata: %s\n\n" % (name.encode(), encode(content))


def snapshot_events(states: Sequence[TopicState], *, lost: int, offset: float) -> Iterator[bytes]:
    """Yield the events that make a page forget everything and show these topics.

    `lost` counts the messages that this viewer was too slow for; `offset` turns the monotonic clock into the epoch.
    """
    yield event("reset", {"lost": lost, "topics": len(states)})
    for start in range(0, len(states), CHUNK):
        yield event("topics", [_state(each, offset) for each in states[start : start + CHUNK]])


def batch_event(
    parts: Iterable[Part], fresh: Sequence[tuple[int, str]], numbers: dict[str, int], offset: float
) -> bytes:
    """Return the event for messages: each part has its time, then number, size, flags and preview of each message.

    `fresh` has number and name of each topic that the page does not know yet.
    """
    content = {
        "fresh": [(number, visible(topic)) for number, topic in fresh],
        "parts": [(_milliseconds(part.when, offset), _samples(part.messages, numbers)) for part in parts],
    }
    return event("batch", content)


def preview(payload: bytes) -> str:
    """Return the beginning of a payload as text; bytes that are not UTF-8 become U+FFFD."""
    return payload[:PREVIEW_BYTES].decode("utf-8", "replace")


def _samples(messages: Sequence[Message], numbers: dict[str, int]) -> list[object]:
    flat: list[object] = []
    for message in messages:
        payload = message[1]
        size = len(payload)
        flags = (RETAINED if message[3] else 0) | (CUT if size > PREVIEW_BYTES else 0)
        flat += (numbers[message[0]], size, flags, payload[:PREVIEW_BYTES].decode("utf-8", "replace"))
    return flat


def _state(state: TopicState, offset: float) -> tuple[object, ...]:
    payload = state.message.payload
    return (
        *(state.number, visible(state.topic), state.received, round(state.rate, 3), len(payload)),
        *(_milliseconds(state.when, offset), state.retained, preview(payload)),
    )


def _milliseconds(when: float, offset: float) -> int:
    return round((when + offset) * 1000)
