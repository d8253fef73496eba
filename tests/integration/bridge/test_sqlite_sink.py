"""The SQLite sink and its file."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from pathlib import Path

import pytest

from mqttkit.bridge.sinks import open_sink
from mqttkit.bridge.sinks.types import Committed, MetricBatch, SinkOptions
from mqttkit.errors import SinkBroken, SinkUnavailable
from tests.support.sinks import metric


def test_sqlite_of_another_shape_or_damaged_is_broken(tmp_path: Path) -> None:
    """A foreign table, a file that is no database, a missing directory: one clear error each."""
    foreign, damaged = tmp_path / "foreign.db", tmp_path / "damaged.db"
    with contextlib.closing(sqlite3.connect(foreign)) as database:
        database.execute("CREATE TABLE metrics (tenant_id, agent_id, dedupe_id)")
    damaged.write_bytes(b"no database at all, " * 500)
    for path, what in ((foreign, "another shape"), (damaged, "not a database"), (tmp_path / "no" / "x.db", "mkdir")):
        sink = open_sink(f"sqlite:{path}", SinkOptions())
        with contextlib.closing(sink), pytest.raises(SinkBroken, match=what):
            sink.open()


def open_files(directory: Path) -> int:
    """Count this process's open files below a directory."""
    places = [os.path.realpath(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd")]
    return sum(place.startswith(str(directory)) for place in places)


def test_a_file_that_is_opened_again_lets_the_first_connection_go(tmp_path: Path) -> None:
    """`dead-letters retry` opens it for letters, then for metrics."""
    sink = open_sink(f"sqlite:{tmp_path / 'm.db'}", SinkOptions())
    with contextlib.closing(sink):
        sink.open()
        before = open_files(tmp_path)
        sink.open_letters()
        assert open_files(tmp_path) == before > 0


def stored(path: Path) -> list[float]:
    with contextlib.closing(sqlite3.connect(path)) as database:
        return [value for (value,) in database.execute("SELECT value FROM metrics ORDER BY value")]


@pytest.mark.parametrize("after", ["nothing", "another"])
def test_moved_file_takes_nothing_more_and_keeps_its_rows(tmp_path: Path, after: str) -> None:
    """Nothing is acknowledged into a moved file, and it has every row that was committed before."""
    path, moved = tmp_path / "m.db", tmp_path / "moved.db"
    with contextlib.closing(open_sink(f"sqlite:{path}", SinkOptions())) as sink:
        sink.open()
        assert sink.commit(MetricBatch([metric(number) for number in range(100)])) == Committed(100, 0)
        path.rename(moved)
        if after == "another":
            with contextlib.closing(sqlite3.connect(path)) as database:
                database.execute("CREATE TABLE other (a)")
        batch = MetricBatch([metric(200), metric(201, "x")])
        with pytest.raises(SinkUnavailable, match="moved, removed or replaced"):
            sink.commit(batch)
        assert sink.commit(batch) == Committed(2, 0)
        sink.probe()
    assert stored(path) == [200, 201]
    assert stored(moved) == [float(number) for number in range(100)]


def test_removed_file_takes_nothing_more(tmp_path: Path) -> None:
    """A commit into a removed file is not acknowledged; idle, the probe notices."""
    path = tmp_path / "m.db"
    with contextlib.closing(open_sink(f"sqlite:{path}", SinkOptions())) as sink:
        sink.open()
        sink.commit(MetricBatch([metric(1)]))
        for action in (lambda: sink.commit(MetricBatch([metric(2)])), sink.probe):
            path.unlink()
            with pytest.raises(SinkUnavailable):
                action()
            assert sink.commit(MetricBatch([metric(3)])) == Committed(1, 0)
    assert stored(path) == [3]


def test_file_removed_during_the_commit_is_not_acknowledged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check after the commit catches a file that vanished since the check before it."""
    path = tmp_path / "m.db"
    with contextlib.closing(open_sink(f"sqlite:{path}", SinkOptions())) as sink:
        sink.open()
        monkeypatch.setattr(sink.letters, "settle", lambda _ids: path.unlink())
        with pytest.raises(SinkUnavailable):
            sink.commit(MetricBatch([metric(1)]))
        monkeypatch.undo()
        assert sink.commit(MetricBatch([metric(1)])) == Committed(1, 0)
    assert stored(path) == [1]


def test_file_of_an_earlier_version_gets_the_metric_name_in_its_key(tmp_path: Path) -> None:
    """Duplicates are still found, and another metric with the same dedupe_id is stored."""
    path = tmp_path / "m.db"
    with contextlib.closing(open_sink(f"sqlite:{path}", SinkOptions())) as sink:
        sink.open()
        sink.commit(MetricBatch([metric(1, "x")]))
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("DROP INDEX metrics_key")
        database.execute(
            "CREATE UNIQUE INDEX metrics_key ON metrics (tenant_id, agent_id, dedupe_id) WHERE dedupe_id IS NOT NULL"
        )
    with contextlib.closing(open_sink(f"sqlite:{path}", SinkOptions())) as sink:
        sink.open()
        other = metric(2, "x")._replace(metric_name="u")
        assert sink.commit(MetricBatch([metric(1, "x"), other])) == Committed(1, 1)
    assert stored(path) == [1, 2]
