"""The JSONL sink: crash, rotation, one writer."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mqttkit.bridge.sinks.jsonl import JsonlSink
from mqttkit.bridge.sinks.types import Committed, MetricBatch, SinkOptions
from mqttkit.errors import SinkBroken, SinkUnavailable
from tests.support.bridges import TENANT
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


@pytest.mark.parametrize("rotate_bytes", [10_000, 300])
def test_jsonl_cuts_off_lines_of_another_process_that_died(tmp_path: Path, rotate_bytes: int) -> None:
    """It was killed before it committed them, so the broker sends them again; the running sink removes them."""
    path = tmp_path / "m.jsonl"
    with contextlib.closing(JsonlSink(str(path), SinkOptions(), rotate_bytes=rotate_bytes)) as sink:
        sink.open()
        sink.commit(MetricBatch([metric(1)]))
        with path.open("ab") as file:
            file.write(b'{"value": 98}\n{"value": 99')
        sink.commit(MetricBatch([metric(2)]))
        with path.open("ab") as file:
            file.write(b'{"value": 97}\n' * 100)
        sink.commit(MetricBatch([metric(3)]))
    files = [file for file in tmp_path.glob("m.jsonl*") if "ledger" not in file.name]
    assert sorted(json.loads(line)["value"] for file in files for line in file.read_text().splitlines()) == [1, 2, 3]


def test_jsonl_file_has_one_ledger(tmp_path: Path) -> None:
    """Two bridges with separate ledgers would each cut off the other's lines, so the second one ends."""
    path, elsewhere = tmp_path / "m.jsonl", SinkOptions(dead_letters=str(tmp_path / "elsewhere.db"))
    with contextlib.closing(JsonlSink(str(path), elsewhere)) as first:
        first.open()
        first.commit(MetricBatch([metric(1, "x")]))
        with contextlib.closing(JsonlSink(str(path), SinkOptions())) as same:
            same.open()
            assert same.commit(MetricBatch([metric(1, "x"), metric(2)])) == Committed(1, 1)
        other = JsonlSink(str(path), SinkOptions(dead_letters=str(tmp_path / "other.db")))
        with pytest.raises(SinkBroken, match=r"the ledger of .*m\.jsonl is .*elsewhere\.db"):
            other.open()
    assert [json.loads(line)["value"] for line in path.read_text().splitlines()] == [1, 2]


def test_two_processes_write_one_jsonl_file(tmp_path: Path) -> None:
    """`dead-letters retry` stores beside a running bridge: no torn line, no line twice, also over a rotation."""
    path = tmp_path / "m.jsonl"
    with (
        contextlib.closing(JsonlSink(str(path), SinkOptions(), rotate_bytes=2_000)) as first,
        contextlib.closing(JsonlSink(str(path), SinkOptions(), rotate_bytes=2_000)) as second,
    ):
        first.open()
        first.commit(MetricBatch([], [LETTER]))
        second.open()
        assert second.letters.count() == 1
        for number in range(0, 40, 2):
            for sink, fresh in ((first, number), (second, number + 1)):
                batch = MetricBatch([metric(fresh, f"d{fresh}"), metric(0, "d0")])
                with contextlib.suppress(SinkUnavailable):  # the other one has renamed the file
                    sink.commit(batch)
                    continue
                sink.commit(batch)
    files = [file for file in tmp_path.glob("m.jsonl*") if "ledger" not in file.name]
    assert len(files) > 1
    assert sorted(values(*files)) == list(range(40))


def test_jsonl_commit_waits_for_another_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the other process does not finish, the batch is tried again later."""
    monkeypatch.setattr("mqttkit.bridge.sinks.jsonl.LOCK_SECONDS", 0.01)
    path = tmp_path / "m.jsonl"
    with contextlib.closing(JsonlSink(str(path), SinkOptions())) as sink:
        sink.open()
        with path.open() as other:
            fcntl.flock(other, fcntl.LOCK_EX)
            with pytest.raises(SinkUnavailable, match="another process writes"):
                sink.commit(MetricBatch([metric(1)]))
        assert sink.commit(MetricBatch([metric(1)])).stored == 1


def values(*files: Path) -> list[float]:
    """The values of all lines, each of which must be whole."""
    return [json.loads(line)["value"] for file in files for line in file.read_text().splitlines()]


def rename(path: Path) -> Path:
    moved = path.with_name("moved.jsonl")
    path.rename(moved)
    return moved


def recreate(path: Path) -> Path:
    path.unlink()
    path.write_text("")
    return path


def replace(path: Path) -> Path:
    moved = rename(path)
    path.write_text('{"value": 100}\n')
    return moved


def delete(path: Path) -> Path:
    path.unlink()
    return path


@pytest.mark.parametrize("change", [rename, recreate, replace, delete])
def test_jsonl_file_that_is_changed_under_load_takes_nothing_more(
    tmp_path: Path, change: Callable[[Path], Path]
) -> None:
    """Nothing is committed into a file that its path no longer names; the next attempt opens the path again."""
    path = tmp_path / "m.jsonl"
    with contextlib.closing(JsonlSink(str(path), SinkOptions())) as sink:
        sink.open()
        assert sink.commit(MetricBatch([metric(1, "x"), metric(2)])) == Committed(2, 0)
        before = change(path)
        batch = MetricBatch([metric(3, "y"), metric(4), metric(5, "x")])
        with pytest.raises(SinkUnavailable, match="moved, removed or replaced"):
            sink.commit(batch)
        assert sink.commit(batch) == Committed(2, 1)
        assert sink.commit(MetricBatch([metric(6)])) == Committed(1, 0)
        sink.probe()
    old = values(before) if before != path else []
    assert old == ([1, 2] if before != path else [])
    assert values(path) == ([100] if change is replace else []) + [3, 4, 6]


def test_jsonl_file_moved_during_a_write_keeps_no_line_of_the_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The batch goes to the new file whole, and the moved file does not have it."""
    path = tmp_path / "m.jsonl"
    with contextlib.closing(JsonlSink(str(path), SinkOptions())) as sink:
        sink.open()
        sink.commit(MetricBatch([metric(1)]))
        append = sink._append
        monkeypatch.setattr(sink, "_append", lambda data: (append(data), rename(path)))
        batch = MetricBatch([metric(2)])
        with pytest.raises(SinkUnavailable):
            sink.commit(batch)
        monkeypatch.undo()
        assert sink.commit(batch) == Committed(1, 0)
    assert values(tmp_path / "moved.jsonl") == [1]
    assert values(path) == [2]


def crash(sink: JsonlSink) -> None:
    """Let go of the files as the kernel does for a process that dies."""
    assert sink._ledger is not None
    sink._ledger._database.close()
    os.close(sink._file)
    sink._file, sink._ledger = -1, None


def test_jsonl_crash_after_a_move_tears_and_repeats_no_line(tmp_path: Path) -> None:
    """The ledger's length belongs to the file that was moved, not to the one with its name."""
    path = tmp_path / "m.jsonl"
    sink = JsonlSink(str(path), SinkOptions())
    sink.open()
    sink.commit(MetricBatch([metric(1, "a"), metric(2, "b")]))
    moved = rename(path)
    crash(sink)
    path.write_text('{"value": 50}\n{"value": 51}\n{"value": 52}\n{"value": 53}\n{"value": 54}\n{"value": 55}\n' * 20)
    with contextlib.closing(sink):
        assert sink.commit(MetricBatch([metric(2, "b"), metric(3, "c")])) == Committed(1, 1)
    assert values(moved) == [1, 2]
    assert values(path) == [50, 51, 52, 53, 54, 55] * 20 + [3]


def test_jsonl_file_with_an_unfinished_line_of_another_program(tmp_path: Path) -> None:
    """The sink ends that line and begins its own on the next one."""
    path = tmp_path / "m.jsonl"
    path.write_text('{"value": 9}')
    with contextlib.closing(JsonlSink(str(path), SinkOptions())) as sink:
        sink.open()
        sink.commit(MetricBatch([metric(1)]))
    assert values(path) == [9, 1]


def test_jsonl_ledger_that_was_removed_truncates_nothing(tmp_path: Path) -> None:
    """Lines stay if the ledger is lost, while running or between two runs."""
    path = tmp_path / "m.jsonl"
    ledger = tmp_path / "m.jsonl.ledger.db"
    with contextlib.closing(JsonlSink(str(path), SinkOptions())) as sink:
        sink.open()
        sink.commit(MetricBatch([metric(1)]))
        ledger.unlink()
        batch = MetricBatch([metric(2)])
        with pytest.raises(SinkUnavailable, match="ledger"):
            sink.commit(batch)
        assert sink.commit(batch) == Committed(1, 0)
    ledger.unlink()
    with contextlib.closing(JsonlSink(str(path), SinkOptions())) as sink:
        sink.open()
        assert sink.commit(MetricBatch([metric(3)])) == Committed(1, 0)
    assert values(path) == [1, 2, 3]


def test_ledger_of_an_earlier_version_still_finds_its_duplicates(tmp_path: Path) -> None:
    """Keys without a metric name count until they expire; new keys have one."""
    path = tmp_path / "m.jsonl"
    with contextlib.closing(JsonlSink(str(path), SinkOptions())) as sink:
        sink.open()
        sink.commit(MetricBatch([metric(1, "x")]))
    with contextlib.closing(sqlite3.connect(tmp_path / "m.jsonl.ledger.db")) as database:
        database.execute("UPDATE seen SET key = ?", (f"{TENANT}/a/x",))
        database.execute("DELETE FROM state WHERE name != 'length'")
        database.commit()
    with contextlib.closing(JsonlSink(str(path), SinkOptions())) as sink:
        sink.open()
        assert sink.commit(MetricBatch([metric(1, "x"), metric(2, "y")])) == Committed(1, 1)
        assert sink.commit(MetricBatch([metric(2, "y"), metric(3, "y")._replace(metric_name="u")])) == Committed(1, 1)
    assert values(path) == [1, 2, 3]


def test_ledger_knows_a_retained_message_beyond_the_dedupe_window(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new subscription days later brings it again; other ids are forgotten."""
    monkeypatch.setattr("mqttkit.bridge.sinks.ledger.PRUNE_SECONDS", -1.0)
    path, retained = tmp_path / "m.jsonl", f"retained:{'a' * 40}"
    batch = [metric(1, retained), metric(2, "x")]
    with contextlib.closing(JsonlSink(str(path), SinkOptions(dedupe_window=100))) as sink:
        sink.open()
        assert sink.commit(MetricBatch(batch, contents={0: retained})) == Committed(2, 0)
        now = time.time()
        monkeypatch.setattr("mqttkit.bridge.sinks.ledger.time.time", lambda: now + 1_000)
        sink.commit(MetricBatch([metric(3)]))
        assert sink.commit(MetricBatch(batch, contents={0: retained})) == Committed(1, 1)
    assert values(path) == [1, 2, 3, 2]
