"""The JSONL sink: crash, rotation, one writer."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest

from mqttkit.bridge.sinks.jsonl import JsonlSink
from mqttkit.bridge.sinks.types import MetricBatch, SinkOptions
from mqttkit.errors import SinkBroken
from tests.support.sinks import LETTER, metric


def test_jsonl_cuts_off_what_was_not_committed(tmp_path: Path) -> None:
    """Lines that a crash left behind the last commit vanish at the next start; rotation loses none."""
    path = tmp_path / "m.jsonl"
    with contextlib.closing(JsonlSink(str(path), SinkOptions(), rotate_bytes=300)) as sink:
        sink.open()
        sink.commit(MetricBatch([metric(1, "x")]))
        with path.open("ab") as file:
            file.write(b'{"value": 99')
    with contextlib.closing(JsonlSink(str(path), SinkOptions(), rotate_bytes=300)) as sink:
        sink.open()
        for number in range(2, 8):
            sink.commit(MetricBatch([metric(number)]))
    files = sorted(tmp_path.glob("m.jsonl*Z-*"))
    assert len(files) >= 2
    lines = "".join(file.read_text() for file in [*files, path]).splitlines()
    assert sorted(json.loads(line)["value"] for line in lines) == [1, 2, 3, 4, 5, 6, 7]


def test_jsonl_file_belongs_to_one_bridge(tmp_path: Path) -> None:
    """A second writer is refused; dead letters can be read beside the first."""
    path = tmp_path / "m.jsonl"
    with contextlib.closing(JsonlSink(str(path), SinkOptions())) as first:
        first.open()
        first.commit(MetricBatch([], [LETTER]))
        with contextlib.closing(JsonlSink(str(path), SinkOptions())) as second:
            assert second.letters.count() == 1
            with pytest.raises(SinkBroken, match="another process"):
                second.open()
