"""Servers and sinks that the bridge's tests share."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.http_receiver import http_receiver
from tests.support.kafka import kafka_cluster
from tests.support.line_servers import influx_server, victoria_server
from tests.support.nats import nats_server
from tests.support.postgres import postgres
from tests.support.redis import redis_server
from tests.support.sinks import (
    Case,
    influx_case,
    kafka_case,
    nats_case,
    postgresql_case,
    redis_case,
    sqlite_values,
    victoria_case,
)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Any]]:
    """Servers that the tests share, started when they are first asked for."""
    with contextlib.ExitStack() as stack:
        running: dict[str, Any] = {}

        def get(kind: str) -> Any:
            if kind not in running:
                servers = {
                    "redis": redis_server,
                    "postgresql": postgres,
                    "influx": influx_server,
                    "nats": nats_server,
                    "kafka": kafka_cluster,
                    "victoria": victoria_server,
                }
                running[kind] = stack.enter_context(servers[kind](tmp_path_factory.mktemp(kind)))  # type: ignore[operator]
            return running[kind]

        yield get


@pytest.fixture(
    params=["sqlite", "redis", "list", "jsonl", "http", "postgresql", "influx", "victoria", "nats", "kafka"]
)
def case(
    request: pytest.FixtureRequest, tmp_path: Path, server: Callable[[str], Any], monkeypatch: Any
) -> Iterator[Case]:
    """One case a kind of sink, with nothing stored yet."""
    kind = request.param
    if kind == "http":
        with http_receiver() as receiver:
            yield Case(receiver.url, lambda: [row["value"] for _, body in receiver.requests for row in body])
    elif kind in ("redis", "list"):
        yield redis_case(server("redis"), kind)
    elif kind == "postgresql":
        yield postgresql_case(server("postgresql"))
    elif kind == "influx":
        yield influx_case(server("influx"))
    elif kind == "nats":
        yield nats_case(server("nats"))
    elif kind == "kafka":
        yield kafka_case(server("kafka"))
    elif kind == "victoria":
        yield victoria_case(server("victoria"))
    elif kind == "jsonl":
        path = tmp_path / "metrics.jsonl"
        yield Case(f"jsonl:{path}", lambda: [json.loads(line)["value"] for line in path.read_text().splitlines()])
    else:
        path = tmp_path / "metrics.db"
        yield Case(f"sqlite:{path}", lambda: sqlite_values(path))
