"""What a recorder answers, without a broker."""

from __future__ import annotations

import pytest

from mqttkit.errors import TopicError
from mqttkit.messages import Message
from mqttkit.settings import MqttSettings
from mqttkit.testing import recorder as module
from mqttkit.testing.recorder import MessageRecorder


@pytest.fixture
def recorder() -> MessageRecorder:
    """A recorder that is not connected and has three messages."""
    made = MessageRecorder(MqttSettings())
    made._record([Message("a/1", b'{"x": 1}'), Message("a/2", b"\xff"), Message("b", b"1")])
    return made


def test_it_compares_topic_payload_and_json(recorder: MessageRecorder) -> None:
    """Exactly, and JSON by value; a payload that is not JSON is no match."""
    assert recorder.saw("a/+", count=2, within=0)
    assert recorder.saw("a/1", json={"x": 1}, within=0)
    assert recorder.saw("b", "1", within=0)
    assert recorder.saw("b", json=1, within=0)
    assert not recorder.saw("a/2", json=1, within=0)
    assert not recorder.saw("b", "2", within=0)
    assert not recorder.saw("a/+", count=3, within=0)


def test_the_answer_explains_itself(recorder: MessageRecorder) -> None:
    """For a failed assertion."""
    assert repr(recorder.saw("c", within=0)) == (
        "<not seen: 0 of 1 messages on 'c' within 0 s; no message on that topic>"
    )
    assert "1 messages on that topic, the last ones: b b'1'" in repr(recorder.saw("b", "2", within=0))
    assert repr(recorder.saw_nothing("b", within=0)) == "<not seen: messages on 'b': [b'1']>"


def test_memory_is_bounded(recorder: MessageRecorder, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest messages go, and are counted."""
    recorder._record([Message("c", b"")] * module.MAX_MESSAGES)
    assert (len(recorder), recorder.dropped) == (module.MAX_MESSAGES, 3)
    recorder.clear()
    assert list(recorder) == []


def test_a_malformed_filter_is_an_error(recorder: MessageRecorder) -> None:
    """And not a question that is never true."""
    with pytest.raises(TopicError):
        recorder.saw("a/#/b", within=0)
