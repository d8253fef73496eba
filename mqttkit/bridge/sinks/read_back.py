"""Read back the metrics that a sink has stored for one agent."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mqttkit.bridge.sinks import sink_options
from mqttkit.bridge.sinks.redis_connection import SCHEMES, connect_redis, translated
from mqttkit.bridge.sinks.types import SinkOptions
from mqttkit.errors import UsageError
from mqttkit.settings import BridgeSettings

_OF_AGENT = "SELECT {dedupe_id} FROM {table} WHERE {agent_id} = %s"
READ_ENTRIES = 5_000
"""Entries of a stream read at a time."""


def stored_ids(bridge: BridgeSettings, agent: str) -> list[str]:
    """Return the dedupe_id of each stored metric of the agent; one that is stored twice appears twice.

    Raise UsageError for a sink that cannot be read.
    """
    address = bridge.sink or ""
    scheme, _, rest = address.partition(":")
    if scheme == "sqlite":
        return _from_sqlite(rest.removeprefix("//"), agent)
    if scheme in ("postgresql", "postgres"):
        return _from_postgresql(bridge, agent)
    if scheme == "jsonl":
        return list(_from_jsonl(Path(rest.removeprefix("//")).expanduser(), agent))
    if scheme in SCHEMES:
        return list(_from_redis(bridge, agent))
    if scheme in ("influx", "influxs"):
        return _from_influx(bridge, agent)
    if scheme in ("victoria", "victorias"):
        return list(_from_victoria(bridge, agent))
    if scheme in ("nats", "natss"):
        return _from_nats(bridge, agent)
    if scheme in ("kafka", "kafkas"):
        return _from_kafka(bridge, agent)
    raise UsageError("an http sink cannot be read back", hint="Use another sink for the proof")


def _from_sqlite(path: str, agent: str) -> list[str]:
    file = Path(path).expanduser().resolve()
    if not file.exists():
        return []
    with contextlib.closing(sqlite3.connect(file, timeout=10)) as database:
        found = database.execute("SELECT dedupe_id FROM metrics WHERE agent_id = ?", (agent,))
        return [name for (name,) in found]


def _from_postgresql(bridge: BridgeSettings, agent: str) -> list[str]:
    from mqttkit.bridge.sinks.postgresql.columns import ColumnMap, quoted
    from mqttkit.bridge.sinks.postgresql.database import Database
    from mqttkit.bridge.sinks.postgresql.tables import Tables

    tables = Tables(bridge.table, ColumnMap.parse(bridge.columns))
    names = {name: quoted(tables.columns.name(name)) for name in ("dedupe_id", "agent_id")}
    timeout = max(bridge.sink_timeout, 60.0)
    database = Database(bridge.sink or "", timeout, tables, password_file=bridge.sink_password_file)
    with contextlib.closing(database), database.use() as connection:
        found = connection.execute(_OF_AGENT.format(table=tables.metrics, **names), (agent,))
        return [name for (name,) in found.fetchall()]


def _from_jsonl(path: Path, agent: str) -> Iterator[str]:
    needle = json.dumps(agent).encode()
    for file in [*sorted(path.parent.glob(f"{path.name}.*Z-*")), path]:
        if not file.exists():
            continue
        with file.open("rb") as lines:
            for line in lines:
                if needle in line and line.endswith(b"\n") and (row := json.loads(line))["agent_id"] == agent:
                    yield row["dedupe_id"]


def _from_redis(bridge: BridgeSettings, agent: str) -> Iterator[str]:
    client: Any = connect_redis(bridge.sink or "", timeout=60.0, password_file=bridge.sink_password_file)
    with contextlib.closing(client), translated("the sink"):
        read = _jobs if bridge.list else _entries
        name = bridge.list or bridge.stream
        yield from (row["dedupe_id"] for row in read(client, name) if row.get("agent_id") == agent)


def _entries(client: Any, stream: str) -> Iterator[dict[str, str]]:
    after = "-"
    while entries := client.xrange(stream, after, "+", count=READ_ENTRIES):
        yield from (fields for _, fields in entries)
        after = f"({entries[-1][0]}"


def _from_influx(bridge: BridgeSettings, agent: str) -> list[str]:
    from mqttkit.bridge.sinks.remote.influx import InfluxDestination

    with contextlib.closing(InfluxDestination(bridge.sink or "", _patient(bridge))) as server:
        rows = server.query(f"SELECT dedupe_id FROM /.*/ WHERE agent_id = '{agent}'")  # noqa: S608 - a name of ours
    return [str(name) for _, name in rows]


def _from_victoria(bridge: BridgeSettings, agent: str) -> Iterator[str]:
    """Yield the names of a proof's metrics, which are numbered by their values: no dedupe_id is stored."""
    from mqttkit.bridge.sinks.remote.victoria import VictoriaDestination

    now_ms = time.time_ns() // 1_000_000
    with contextlib.closing(VictoriaDestination(bridge.sink or "", _patient(bridge))) as server:
        for _, values, _ in server.export([f'agent_id="{agent}"'], 0, now_ms + 86_400_000):
            yield from (f"{agent}-{value:.0f}" for value in values)


def _from_nats(bridge: BridgeSettings, agent: str) -> list[str]:
    from mqttkit.bridge.sinks.remote.nats import NatsDestination

    with contextlib.closing(NatsDestination(bridge.sink or "", _patient(bridge))) as server:
        rows = [json.loads(data) for data in server.read(agent)]
    return [row["dedupe_id"] for row in rows if row["agent_id"] == agent]


def _from_kafka(bridge: BridgeSettings, agent: str) -> list[str]:
    from mqttkit.bridge.sinks.remote.kafka import KafkaDestination

    with contextlib.closing(KafkaDestination(bridge.sink or "", _patient(bridge))) as server:
        rows = [json.loads(data) for data in server.read()]
    return [row["dedupe_id"] for row in rows if row["agent_id"] == agent]


def _patient(bridge: BridgeSettings) -> SinkOptions:
    return dataclasses.replace(sink_options(bridge), timeout=60.0)


def _jobs(client: Any, name: str) -> Iterator[dict[str, str]]:
    start = 0
    while jobs := client.lrange(name, start, start + READ_ENTRIES - 1):
        yield from (json.loads(job)["data"] for job in jobs)
        start += len(jobs)
