"""The SQLite sink and its file."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from pathlib import Path

import pytest

from mqttkit.bridge.sinks import open_sink
from mqttkit.bridge.sinks.types import SinkOptions
from mqttkit.errors import SinkBroken


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
