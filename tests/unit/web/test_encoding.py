"""What the page receives."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from mqttkit.messages import Message
from mqttkit.web.encoding import CHUNK, Part, TopicState, batch_event, event, snapshot_events


def parsed(data: bytes) -> tuple[str, Any]:
    first, second, *rest = data.split(b"\n")
    assert rest == [b"", b""]
    return first.decode().removeprefix("event: "), json.loads(second.removeprefix(b"data: "))


def state(number: int, payload: bytes = b"21.5") -> TopicState:
    return TopicState(number, f"a/{number}", Message(f"a/{number}", payload), 3, 1.23456, 10.0, False)


def test_a_batch_has_time_number_size_flags_and_preview() -> None:
    messages = [Message("a", b"21.5"), Message("b", b"\xff" * 300, retain=True)]
    name, content = parsed(batch_event([Part(2.5, messages)], [(1, "b")], {"a": 0, "b": 1}, 1000.0))
    assert name == "batch"
    assert content == {"fresh": [[1, "b"]], "parts": [[1002500, [0, 4, 0, "21.5", 1, 300, 3, "�" * 256]]]}


def test_a_snapshot_is_cut_into_events() -> None:
    events = [parsed(each) for each in snapshot_events([state(n) for n in range(CHUNK + 1)], lost=7, offset=0.0)]
    assert [name for name, _ in events] == ["reset", "topics", "topics"]
    assert events[0][1] == {"lost": 7, "topics": CHUNK + 1}
    assert events[2][1] == [[CHUNK, f"a/{CHUNK}", 3, 1.235, 4, 10000, False, "21.5"]]


@given(st.text(st.characters(), max_size=20), st.binary(max_size=400))
def test_any_topic_and_payload_make_one_event(topic: str, payload: bytes) -> None:
    """A line feed or a byte that is not UTF-8 cannot end an event early."""
    name, content = parsed(batch_event([Part(0.0, [Message(topic, payload)])], [(0, topic)], {topic: 0}, 0.0))
    assert name == "batch"
    assert content["parts"][0][1][1] == len(payload)


def test_markup_is_data() -> None:
    attack = "</script><script>alert(1)</script>\n\ndata: x"
    assert parsed(event("x", attack)) == ("x", attack)
