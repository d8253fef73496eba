"""`mqttkit bridge worker`: from the Redis stream into a database."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mqttkit.bridge.identity import Identity
from mqttkit.bridge.metric import Metric, MetricParser
from mqttkit.bridge.sinks.redis import RedisSink
from mqttkit.bridge.sinks.types import MetricBatch, SinkOptions
from mqttkit.bridge.worker.stream_worker import StreamWorker, WorkerSettings
from mqttkit.settings import BridgeSettings
from tests.support.bridges import TENANT, ask_health, rows, wait_until
from tests.support.brokers import free_port
from tests.support.postgres import postgres
from tests.support.redis import RedisServer, redis_server
from tests.support.workers import running_worker

STREAM = "mqttkit:metrics"


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    with redis_server(tmp_path / "redis") as server:
        yield server


def fill(redis: RedisServer, numbers: range, *, live: bool = False) -> None:
    """Put numbered metrics into the stream as the bridge does; odd ones have no dedupe_id."""
    with contextlib.closing(RedisSink(redis.url, SinkOptions(live=live))) as sink:
        sink.open()
        metrics = [Metric(TENANT, "a", "t", n, 1, f"d{n}" if n % 2 == 0 else None, None, 2) for n in numbers]
        sink.commit(MetricBatch(metrics))


@contextlib.contextmanager
def worker(redis: RedisServer, sink: str, **more: float) -> Iterator[StreamWorker]:
    settings = BridgeSettings(sink=sink, batch_size=50)
    with running_worker(StreamWorker(WorkerSettings(source=redis.url, bridge=settings, **more))) as made:  # type: ignore[arg-type]
        yield made


def test_worker_stores_acknowledges_trims_and_tells(redis: RedisServer, tmp_path: Path) -> None:
    """All entries are stored, what all groups have read is trimmed, live events go out; a foreign entry is kept."""
    path = tmp_path / "metrics.db"
    with redis.client() as client, client.pubsub() as channel:
        channel.subscribe(f"metrics:{TENANT}")
        assert channel.get_message(timeout=60)
        fill(redis, range(300))
        client.xadd(STREAM, {"what": "is this"})
        client.xgroup_create(STREAM, "slow", id="0")
        with worker(redis, f"sqlite:{path}") as made:
            wait_until(lambda: made.books.acknowledged == 301)
            made._trim()
            assert client.xlen(STREAM) == 301
            client.xgroup_destroy(STREAM, "slow")
            client.xtrim(STREAM, minid="0", approximate=False)
            made._trim()
            assert client.xlen(STREAM) < 301
        assert rows(path) == [(300,)]
        ((reason, detail),) = rows(path, "SELECT reason, detail FROM dead_letters")
        assert reason == "handler_error"
        assert "tenant_id" in detail
        assert json.loads(channel.get_message(timeout=60)["data"])["agent_id"] == "a"
        assert made.books.balance().dead_lettered == 1


def test_worker_is_silent_where_the_bridge_tells_live_views(redis: RedisServer, tmp_path: Path) -> None:
    """With a bridge that publishes live events the worker publishes none."""
    with redis.client() as client, client.pubsub() as channel:
        fill(redis, range(10), live=True)
        channel.subscribe(f"metrics:{TENANT}")
        assert channel.get_message(timeout=60)["type"] == "subscribe"
        with worker(redis, f"sqlite:{tmp_path / 'm.db'}") as made:
            wait_until(lambda: made.books.acknowledged == 10)
        assert channel.get_message(timeout=0.1) is None


def test_worker_into_postgresql(redis: RedisServer, tmp_path: Path) -> None:
    """The same with PostgreSQL, through an outage of it."""
    import psycopg

    with postgres(tmp_path / "postgres") as server, worker(redis, server.url) as made:
        fill(redis, range(100))
        wait_until(lambda: made.books.acknowledged == 100)
        server.stop()
        fill(redis, range(100, 200))
        wait_until(lambda: made.books.retries > 0)
        server.start()
        wait_until(lambda: made.books.acknowledged == 200)
        with psycopg.connect(server.url) as connection:
            assert connection.execute("SELECT count(*), count(DISTINCT value) FROM metrics").fetchone() == (200, 200)


def test_killed_worker_comes_back_and_dead_worker_is_inherited(redis: RedisServer, tmp_path: Path) -> None:
    """SIGKILL between commit and acknowledgement: its own entries first when it returns; others' are claimed."""
    path = tmp_path / "metrics.db"
    fill(redis, range(2_000))
    with redis.client() as client:
        client.xgroup_create(STREAM, "mqttkit", id="0")
        client.xreadgroup("mqttkit", "somebody-dead", {STREAM: ">"}, count=100)
    command = [sys.executable, "-m", "mqttkit", "bridge", "worker", "--source", redis.url]
    command += ["--sink", f"sqlite:{path}", "--claim-after", "1", "--quiet"]
    for _ in range(3):
        process = subprocess.Popen(command, env=os.environ)
        before = (rows(path) or [(0,)])[0][0]
        wait_until(lambda: (rows(path) or [(0,)])[0][0] > before or rows(path) == [(2_000,)])  # noqa: B023
        process.send_signal(signal.SIGKILL)
        process.wait()
    process = subprocess.Popen(command, env=os.environ)
    wait_until(lambda: rows(path) == [(2_000,)])
    with redis.client() as client:
        wait_until(lambda: client.xpending(STREAM, "mqttkit")["pending"] == 0)
    process.terminate()
    assert process.wait(60) == 0
    with contextlib.closing(sqlite3.connect(path)) as database:
        assert database.execute("SELECT count(DISTINCT value) FROM metrics").fetchone() == (2_000,)


def test_worker_survives_the_removal_of_its_stream(redis: RedisServer, tmp_path: Path) -> None:
    """A stream that an operator deletes is created again with its group; later metrics are stored."""
    path = tmp_path / "metrics.db"
    with redis.client() as client, worker(redis, f"sqlite:{path}") as made:
        fill(redis, range(10))
        wait_until(lambda: made.books.acknowledged == 10)
        client.delete(STREAM)
        wait_until(lambda: client.exists(STREAM) and client.xinfo_groups(STREAM))
        fill(redis, range(10, 20))
        wait_until(lambda: made.books.acknowledged == 20)
    assert rows(path) == [(20,)]


def test_trimmed_entries_are_no_dead_letters(redis: RedisServer, tmp_path: Path) -> None:
    """Entries that were removed after an earlier run had read them are acknowledged and dropped."""
    path = tmp_path / "metrics.db"
    fill(redis, range(20))
    with redis.client() as client:
        client.xgroup_create(STREAM, "mqttkit", id="0")
        consumer = worker_name(redis)
        client.xreadgroup("mqttkit", consumer, {STREAM: ">"}, count=20)
        client.xreadgroup("mqttkit", "somebody-dead", {STREAM: ">"}, count=20)
        client.xtrim(STREAM, maxlen=5, approximate=False)
        with worker(redis, f"sqlite:{path}", claim_after=0.1) as made:
            wait_until(lambda: client.xpending(STREAM, "mqttkit")["pending"] == 0)
            wait_until(lambda: rows(path) == [(5,)])
        assert made.books.balance().dead_lettered == 0


def worker_name(redis: RedisServer) -> str:
    """The consumer name that a worker of this test will have."""
    with Identity("worker", redis.url, STREAM, "mqttkit") as identity:
        return identity.client_id


def test_worker_trims_everything_that_was_read(redis: RedisServer, tmp_path: Path) -> None:
    """One trim removes more entries than Redis removes by default."""
    with redis.client() as client:
        for start in range(0, 40_000, 4_000):
            fill(redis, range(start, start + 4_000))
        client.xgroup_create(STREAM, "mqttkit", id="$")
        with worker(redis, f"sqlite:{tmp_path / 'm.db'}") as made:
            made._trim()
            assert client.xlen(STREAM) <= 100


def test_worker_reports_health_and_lag(redis: RedisServer, tmp_path: Path) -> None:
    """/readyz says why metrics do not flow; /metrics has the counters, and what is waiting in the stream."""
    fill(redis, range(20))
    port = free_port()
    settings = BridgeSettings(sink=f"sqlite:{tmp_path / 'metrics.db'}", health_port=port)
    with running_worker(StreamWorker(WorkerSettings(source=redis.url, bridge=settings))) as made:
        wait_until(lambda: made.books.acknowledged == 20)
        wait_until(lambda: ask_health(port, "/readyz")[0] == 200)
        fill(redis, range(20, 30))
        wait_until(lambda: made.books.acknowledged == 30)
        made._trim()
        samples = dict(line.split(" ") for line in ask_health(port, "/metrics")[1].splitlines() if line[0] != "#")
        names = ("stored_metrics_total", "lag_entries", "pending_entries", "ready")
        assert [float(samples[f"mqttkit_bridge_{name}"]) for name in names] == [30, 0, 0, 1]
        redis.stop(signal.SIGKILL)
        wait_until(lambda: ask_health(port, "/readyz")[0] == 503 and "Connection" in ask_health(port, "/readyz")[1])
        assert ask_health(port, "/livez")[0] == 200
        redis.start()
        wait_until(lambda: ask_health(port, "/readyz")[0] == 200)
    assert made.health().not_ready == ["stopping"]


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keep everybody else out of a database."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        yield


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let workers trim and measure at every turn, and wait 0.1 s for a locked database."""
    monkeypatch.setattr("mqttkit.bridge.worker.stream_worker.TRIM_SECONDS", 0.0)
    monkeypatch.setattr("mqttkit.bridge.sinks.sqlite.BUSY_SECONDS", 0.1)


@pytest.mark.usefixtures("impatient")
def test_lag_grows_while_the_database_is_away(redis: RedisServer, tmp_path: Path) -> None:
    """That is when somebody must be told: the worker measures it between its attempts too."""
    path = tmp_path / "metrics.db"
    with worker(redis, f"sqlite:{path}") as made:
        fill(redis, range(10))
        wait_until(lambda: made.books.acknowledged == 10)
        with locked(path):
            fill(redis, range(10, 200))
            wait_until(lambda: "locked" in str(made.health().not_ready))
            fill(redis, range(200, 300))
            wait_until(lambda: sum(waiting(made)) == 290)
            assert waiting(made)[1] <= 50
        wait_until(lambda: made.books.acknowledged == 300 and waiting(made) == (0, 0))
    assert rows(path) == [(300,)]


@pytest.mark.usefixtures("impatient")
def test_lag_that_redis_does_not_know_is_not_shown_as_zero(redis: RedisServer, tmp_path: Path) -> None:
    """It cannot count over a removed entry that no worker has read, until they have read further."""
    path = tmp_path / "metrics.db"
    with redis.client() as client, worker(redis, f"sqlite:{path}") as made:
        wait_until(lambda: path.exists() and waiting(made) == (0, 0))
        with locked(path):
            fill(redis, range(200))
            wait_until(lambda: waiting(made)[1] > 0)
            _, before = (name for name, _ in client.xrevrange(STREAM, count=2))
            client.xdel(STREAM, before)
            wait_until(lambda: waiting(made)[0] == UNKNOWN)
        wait_until(lambda: made.books.acknowledged == 199 and waiting(made) == (0, 0))


UNKNOWN = -1.0


def waiting(made: StreamWorker) -> tuple[float, float]:
    """Entries that no worker has read, and those that one has read and not stored."""
    samples = {sample.name: sample.value for sample in made.samples()}
    return samples.get("lag_entries", UNKNOWN), samples.get("pending_entries", UNKNOWN)


@pytest.mark.usefixtures("impatient")
def test_worker_that_waits_for_its_database_keeps_what_others_have_read(redis: RedisServer, tmp_path: Path) -> None:
    """Its own group does not exist before its first turn, and must get the stream from the beginning."""
    fill(redis, range(300))
    path = tmp_path / "metrics.db"
    with redis.client() as client, contextlib.ExitStack() as stack:
        client.xgroup_create(STREAM, "another", id="$")
        lock = stack.enter_context(contextlib.ExitStack())
        lock.enter_context(locked(path))
        made = stack.enter_context(worker(redis, f"sqlite:{path}"))
        wait_until(lambda: made.books.retries >= 3)
        assert client.xlen(STREAM) == 300
        lock.close()
        wait_until(lambda: made.books.acknowledged == 300)


def test_refused_entry_keeps_its_topic_and_can_be_retried(redis: RedisServer, tmp_path: Path) -> None:
    """A metric that the database refuses becomes a letter that parses again; a foreign entry keeps what it has."""
    with redis.client() as client:
        fields = {"tenant_id": TENANT, "agent_id": "a", "metric_name": "t", "value": "1.5", "timestamp_ms": "7000"}
        client.xadd(STREAM, {**fields, "dedupe_id": "x", "tags": '{"u":"C"}', "received_ms": str(2**70)})
        client.xadd(STREAM, {**fields, "value": "warm", "received_ms": "1"})
    path = tmp_path / "metrics.db"
    with worker(redis, f"sqlite:{path}") as made:
        wait_until(lambda: made.books.acknowledged == 2)
    found = rows(path, "SELECT topic, payload, reason FROM dead_letters ORDER BY reason DESC")
    assert [(topic, reason) for topic, _, reason in found] == [
        (f"metrics/{TENANT}/a/t", "sink_refused"),
        (f"metrics/{TENANT}/a/t", "handler_error"),
    ]
    parser = MetricParser(BridgeSettings.topic, payload_limit=1_000)
    again = parser.parse(found[0][0], base64.b64decode(found[0][1]), 5)
    assert (again.value, again.timestamp_ms, again.dedupe_id, again.tags) == (1.5, 7000, "x", '{"u":"C"}')
