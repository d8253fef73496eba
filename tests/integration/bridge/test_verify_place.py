"""Where `bridge verify` stores: beside the user's data, and nothing of it stays."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mqttkit.bridge.sinks import open_sink, sink_options
from mqttkit.bridge.sinks.read_back import stored_ids
from mqttkit.bridge.sinks.types import MetricBatch
from mqttkit.bridge.tenants import open_registry
from mqttkit.bridge.verification.place import own_place
from mqttkit.errors import UsageError
from mqttkit.settings import BridgeSettings
from tests.support.sinks import LETTER, metric, postgresql_case

NAME = "verify-0123456789ab"


def store_and_read(bridge: BridgeSettings) -> None:
    with own_place(bridge, NAME) as place:
        assert len(open_registry(place.tenants or "").all()) == 1
        with contextlib.closing(open_sink(place.sink or "", sink_options(place))) as sink:
            sink.open()
            sink.commit(MetricBatch([metric(1, "x"), metric(2, "y")], [LETTER]))
        assert stored_ids(place, "a") == ["x", "y"]


@pytest.mark.parametrize("kind", ["sqlite", "jsonl"])
def test_files_are_removed(tmp_path: Path, kind: str) -> None:
    """The user's file, with a similar name, stays."""
    (tmp_path / "m").write_text("mine")
    store_and_read(BridgeSettings(sink=f"{kind}:{tmp_path / 'm'}"))
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("m", "mine")]


@pytest.mark.parametrize("options", [{}, {"list": "jobs", "job_format": "laravel"}])
def test_keys_are_removed(server: Callable[[str], Any], options: dict[str, str]) -> None:
    """The user's keys stay, also those that look alike."""
    redis = server("redis")
    mine = {"jobs", "mqttkit:metrics", "{mqttkit:metrics}:dead"}
    with redis.client() as client:
        client.flushall()
        for key in mine:
            client.set(key, "mine")
        store_and_read(BridgeSettings(sink=redis.url, **options))  # type: ignore[arg-type]
        assert set(client.keys()) == mine


def test_tables_are_removed(server: Callable[[str], Any]) -> None:
    """The user's tables stay."""
    import psycopg

    case = postgresql_case(server("postgresql"))
    with psycopg.connect(case.address, autocommit=True) as connection:
        connection.execute("CREATE TABLE metrics (mine int)")
        store_and_read(BridgeSettings(sink=case.address))
        found = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
        assert {name for (name,) in found} == {"metrics", "mqttkit_contents", "mqttkit_sinks", "mqttkit_schema"}
        assert connection.execute("SELECT * FROM mqttkit_schema").fetchall() == []


def test_sink_that_cannot_be_read_is_refused() -> None:
    """Nothing can be counted at an HTTP server."""
    with pytest.raises(UsageError, match="cannot be read back"), own_place(BridgeSettings(sink="http://h/"), NAME):
        pass
