"""Metrics, and one case for each kind of sink."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mqttkit.bridge.metric import Metric
from mqttkit.bridge.sinks import open_sink
from mqttkit.bridge.sinks.ledger import PendingPost
from mqttkit.bridge.sinks.remote.kafka import KafkaDestination
from mqttkit.bridge.sinks.remote.ledger_sink import LedgerSink
from mqttkit.bridge.sinks.remote.nats import NatsDestination
from mqttkit.bridge.sinks.types import Committed, DeadLetter, MetricBatch, Sink, SinkOptions
from mqttkit.errors import SinkUnavailable
from tests.support.bridges import TENANT, wait_until
from tests.support.kafka import KafkaCluster
from tests.support.line_servers import Influx, Victoria
from tests.support.nats import NatsServer
from tests.support.postgres import Postgres
from tests.support.redis import RedisServer

LETTER = DeadLetter(
    "metrics//x", "eA==", 1, "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881", "r", "d", 7
)


def metric(number: float, dedupe_id: str | None = None, agent: str = "a") -> Metric:
    return Metric(TENANT, agent, "t", float(number), 1_700_000_000_123, dedupe_id, '{"unit":"°C"}', 1_700_000_000_456)


@contextlib.contextmanager
def ledger_sink(address: str, directory: Path, **options: Any) -> Iterator[LedgerSink]:
    """Open a sink that has its ledger in this directory."""
    sink = open_sink(address, SinkOptions(dead_letters=str(directory / "ledger.db"), **options))
    assert isinstance(sink, LedgerSink)
    with contextlib.closing(sink):
        sink.open()
        yield sink


def keep_pending(sink: LedgerSink, metrics: Sequence[Metric]) -> PendingPost:
    """Leave what a crash leaves that came after the request and before its answer."""
    post = PendingPost("earlier", sink._destination.encode(metrics), ())
    assert sink._ledger_file().claim(post)
    return post


def commit_until_done(sink: Sink, batch: MetricBatch) -> Committed:
    """Commit as the bridge does: the same batch until it succeeds."""
    done: list[Committed] = []

    def attempt() -> bool:
        with contextlib.suppress(SinkUnavailable):
            done.append(sink.commit(batch))
        return bool(done)

    wait_until(attempt, what="the commit to succeed")
    return done[0]


@dataclass
class Case:
    """One kind of sink, and how to see what it stored."""

    address: str
    values: Callable[[], list[float]]
    stop: Callable[[], None] | None = None
    start: Callable[[], None] | None = None
    jobs: bool = False
    """True where there are jobs on a list."""

    @property
    def without_id(self) -> dict[str | None, int]:
        """How the three metrics without dedupe_id are read back."""
        if self.address.startswith("influx"):
            return {}
        stream = self.address.startswith("redis") and not self.jobs
        return {"" if stream else None: 3}

    def open(self, **options: Any) -> Sink:
        sink = open_sink(self.address, SinkOptions(**{"timeout": 60.0, **options}))
        sink.open()
        return sink


def sqlite_values(path: Path) -> list[float]:
    with contextlib.closing(sqlite3.connect(path)) as database:
        return [value for (value,) in database.execute("SELECT value FROM metrics ORDER BY rowid")]


def redis_case(redis: RedisServer, kind: str) -> Case:
    with redis.client() as client:
        client.flushall()

    def values() -> list[float]:
        with redis.client() as client:
            if kind == "list":
                return [json.loads(job)["data"]["value"] for job in client.lrange("jobs", 0, -1)]
            return [float(fields["value"]) for _, fields in client.xrange("mqttkit:metrics")]

    case = Case(redis.url, values, redis.stop, redis.start)
    if kind == "list":
        plain, case.jobs = case.open, True
        case.open = lambda **options: plain(list_name="jobs", **options)  # type: ignore[method-assign]
    return case


def postgresql_case(server: Postgres) -> Case:
    """The database of a server that tests share, emptied of what others left."""
    import psycopg

    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public; GRANT USAGE ON SCHEMA public TO PUBLIC")

    def values() -> list[float]:
        with psycopg.connect(server.url) as connection:
            return [value for (value,) in connection.execute("SELECT value FROM metrics ORDER BY value")]

    return Case(server.url, values, server.stop, server.start)


def influx_case(server: Influx) -> Case:
    database = f"m{uuid.uuid4().hex}"
    return Case(
        server.address(database),
        lambda: [row[1] for row in server.query("SELECT value FROM /.*/", database)],
        server.stop,
        server.start,
    )


def nats_case(server: NatsServer) -> Case:
    address = server.address(f"m{uuid.uuid4().hex}")

    def values() -> list[float]:
        with contextlib.closing(NatsDestination(address, SinkOptions())) as destination:
            return [json.loads(data)["value"] for data in destination.read()]

    return Case(address, values, server.stop, server.start)


def kafka_case(server: KafkaCluster) -> Case:
    address = server.address(f"m{uuid.uuid4().hex}")

    def values() -> list[float]:
        with contextlib.closing(KafkaDestination(address, SinkOptions())) as destination:
            destination.check_reachable()
            return [json.loads(data)["value"] for data in destination.read()]

    return Case(address, values)


def victoria_case(server: Victoria) -> Case:
    """Without reading back, which waits for a second in each first batch."""
    server.samples('{agent_id!=""}')
    server.ask("/api/v1/admin/tsdb/delete_series", **{"match[]": '{agent_id!=""}'})
    values = lambda: [value for _, value, _ in server.samples('{agent_id!=""}')]  # noqa: E731
    return Case(f"{server.url}?check=no", values, server.stop, server.start)
