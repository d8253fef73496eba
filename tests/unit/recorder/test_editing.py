"""Cutting and merging recordings."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("zstandard")

from mqttkit.messages import Message
from mqttkit.recorder.editing import merge_recordings, write_recording
from mqttkit.recorder.lines import Header, Recorded
from mqttkit.recorder.recording import Recording


def write_part(path: Path, number: int, start: int, retained: list[str], live: list[str]) -> Path:
    """Write a file of a rotated recording; each message's payload is its topic."""
    header = Header(1_000 + start, start, "b:1883", 5, ("#",), 2, number)
    messages = (Recorded(Message(topic, topic.encode(), 0, True), 1, start + 1) for topic in live)
    write_recording(path, header, [Recorded(Message(each, b"", 0, True), 1, start) for each in retained], messages)
    return path


@pytest.mark.parametrize(("number", "state"), [(2, ["a"]), (1, ["a", "b"])])
def test_the_state_of_a_later_file_is_not_that_of_the_start(tmp_path: Path, number: int, state: list[str]) -> None:
    """What came live in the first file is in the second one's state; another recording's state counts."""
    parts = [
        write_part(tmp_path / "1.jsonl.zst", 1, 0, ["a"], ["b"]),
        write_part(tmp_path / "2.jsonl.zst", number, 100, ["a", "b"], ["c"]),
    ]
    assert merge_recordings(parts, tmp_path / "all.jsonl.zst") == 2
    with Recording(tmp_path / "all.jsonl.zst") as merged:
        assert sorted(each.message.topic for each in merged.retained()) == state
        assert [each.message.topic for each in merged.messages()] == ["b", "c"]
        assert [each.message.topic for each in merged.messages(start_ns=50)] == ["c"]
        assert not list(merged.messages(start_ns=102))
