"""What every sink promises, against the real thing: idempotent, whole batches, dead letters beside them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mqttkit.bridge.metric import Metric
from mqttkit.bridge.sinks import open_sink
from mqttkit.bridge.sinks.jsonl import JsonlSink
from mqttkit.bridge.sinks.read_back import stored_ids
from mqttkit.bridge.sinks.types import Batch, Committed, DeadLetter, Sink, SinkOptions
from mqttkit.errors import DeadLettersFull, MqttkitError, SinkBroken, SinkRefused, SinkUnavailable, UsageError
from mqttkit.settings import BridgeSettings
from tests.support.http_receiver import http_receiver
from tests.support.postgres import Postgres, postgres
from tests.support.redis import RedisServer, redis_server

TENANT = "6f1d7c1e-0000-4000-8000-000000000001"
LETTER = DeadLetter(
    "metrics//x", "eA==", 1, "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881", "r", "d", 7
)


SERVERS = ["redis", "list", "postgresql"]
"""Sinks whose server can be down, and can lose an answer."""


def metric(number: float, dedupe_id: str | None = None, agent: str = "a") -> Metric:
    return Metric(TENANT, agent, "t", float(number), 1_700_000_000_123, dedupe_id, '{"unit":"°C"}', 1_700_000_000_456)


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
        stream = self.address.startswith("redis") and not self.jobs
        return {"" if stream else None: 3}

    def open(self, **options: Any) -> Sink:
        sink = open_sink(self.address, SinkOptions(timeout=2.0, **options))
        sink.open()
        return sink


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Any]]:
    """Servers that the tests of this file share, started when they are first asked for."""
    with contextlib.ExitStack() as stack:
        running: dict[str, Any] = {}

        def get(kind: str) -> Any:
            if kind not in running:
                make = {"redis": redis_server, "postgresql": postgres}[kind]
                running[kind] = stack.enter_context(make(tmp_path_factory.mktemp(kind)))  # type: ignore[operator]
            return running[kind]

        yield get


@pytest.fixture(params=["sqlite", "redis", "list", "jsonl", "http", "postgresql"])
def case(
    request: pytest.FixtureRequest, tmp_path: Path, server: Callable[[str], Any], monkeypatch: Any
) -> Iterator[Case]:
    """One case a kind of sink, with nothing stored yet."""
    kind = request.param
    if kind == "http":
        with http_receiver() as receiver:
            yield Case(receiver.url, lambda: [row["value"] for _, body in receiver.requests for row in body])
    elif kind in ("redis", "list"):
        yield _redis_case(server("redis"), kind)
    elif kind == "postgresql":
        yield _postgresql_case(server("postgresql"))
    elif kind == "jsonl":
        path = tmp_path / "metrics.jsonl"
        yield Case(f"jsonl:{path}", lambda: [json.loads(line)["value"] for line in path.read_text().splitlines()])
    else:
        path = tmp_path / "metrics.db"
        yield Case(f"sqlite:{path}", lambda: _sqlite_values(path))


def _sqlite_values(path: Path) -> list[float]:
    with contextlib.closing(sqlite3.connect(path)) as database:
        return [value for (value,) in database.execute("SELECT value FROM metrics ORDER BY rowid")]


def _redis_case(redis: RedisServer, kind: str) -> Case:
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


def _postgresql_case(server: Postgres) -> Case:
    import psycopg

    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute("DROP TABLE IF EXISTS metrics, dead_letters, mqttkit_sinks")

    def values() -> list[float]:
        with psycopg.connect(server.url) as connection:
            return [value for (value,) in connection.execute("SELECT value FROM metrics ORDER BY value")]

    return Case(server.url, values, server.stop, server.start)


def test_sink_stores_a_dedupe_id_once(case: Case) -> None:
    """Within a batch, between batches and after a restart; without a dedupe_id every metric is stored."""
    with contextlib.closing(case.open()) as sink:
        batch = Batch([metric(1, "x"), metric(2, "x"), metric(3, "x", agent="b"), metric(4), metric(5)])
        assert sink.commit(batch) == Committed(4, 1)
        assert sink.commit(Batch([metric(6, "x"), metric(7)])) == Committed(1, 1)
    with contextlib.closing(case.open()) as sink:
        assert sink.commit(Batch([metric(8, "x"), metric(9, "y")])) == Committed(1, 1)
        sink.probe()
    assert sorted(case.values()) == [1, 3, 4, 5, 7, 9]
    settings = BridgeSettings(sink=case.address, list="jobs" if case.jobs else None)
    if case.address.startswith("http"):
        with pytest.raises(UsageError, match="read back"):
            stored_ids(settings, "a")
    else:
        assert Counter(stored_ids(settings, "a")) == {"x": 1, "y": 1, **case.without_id}
        assert stored_ids(settings, "b") == ["x"]


def test_sink_keeps_dead_letters_in_order(case: Case) -> None:
    """They are stored with the metrics, read page by page, removed by name, and settled by a later batch."""
    with contextlib.closing(case.open()) as sink:
        letters = [LETTER._replace(detail=f"d{number}\n'\"\\") for number in range(5)]
        assert sink.commit(Batch([metric(1)], letters)) == Committed(1, 0)
        store = sink.letters
        assert store.count() == 5
        first = store.read(limit=3)
        rest = store.read(after=first[-1].id, limit=10)
        assert [stored.letter for stored in [*first, *rest]] == letters
        assert store.get(rest[0].id) == rest[0]
        assert store.get("999999") is None
        assert store.get("999999-1") is None
        assert store.remove([first[0].id, first[1].id]) == 2
        assert store.remove([]) == 0
        assert sink.commit(Batch([metric(2)], settles=[first[2].id])) == Committed(1, 0)
        assert [stored.letter for stored in store.read()] == letters[3:]


def test_sink_with_a_full_dead_letter_store_takes_nothing(case: Case) -> None:
    """The whole batch waits, its metrics included; when there is room again it goes through."""
    with contextlib.closing(case.open(dead_letter_limit=2)) as sink:
        sink.commit(Batch([], [LETTER, LETTER]))
        batch = Batch([metric(1, "x"), metric(2)], [LETTER])
        with contextlib.suppress(FileNotFoundError), pytest.raises(DeadLettersFull, match="dead-letters purge"):
            sink.commit(batch)
        if not case.address.startswith("http"):
            assert case.values() == []
        sink.letters.remove([stored.id for stored in sink.letters.read()])
        sink.commit(batch)
        assert sink.letters.count() == 1
    assert sorted(set(case.values())) == [1, 2]


@pytest.mark.parametrize("case", SERVERS, indirect=True)
def test_sink_out_of_reach_is_unavailable_until_it_is_back(case: Case) -> None:
    """A server that is down is SinkUnavailable; the same sink works again once the server is back."""
    assert case.stop is not None
    assert case.start is not None
    with contextlib.closing(case.open()) as sink:
        sink.commit(Batch([metric(1, "x")]))
        case.stop()
        try:
            for action in (lambda: sink.commit(Batch([metric(2)])), sink.probe):
                with pytest.raises(SinkUnavailable):
                    action()
        finally:
            case.start()
        sink.probe()
        assert sink.commit(Batch([metric(3, "x"), metric(4, "y")])) == Committed(1, 1)
    assert sorted(case.values()) == [1, 4]


@pytest.mark.parametrize("case", SERVERS, indirect=True)
def test_batch_whose_answer_was_lost_is_not_done_twice(case: Case) -> None:
    """A server-side sink knows the batch by its id, metrics without dedupe_id and dead letters included."""
    with contextlib.closing(case.open()) as sink:
        batch = Batch([metric(1), metric(2, "x"), metric(3, "x")], [LETTER])
        assert sink.commit(batch) == Committed(2, 1)
        assert sink.commit(batch) == Committed(2, 1)
        assert sink.letters.count() == 1
    assert len(case.values()) == 2


def test_redis_stream_has_one_field_a_column_and_tells_live_views(server: Callable[[str], Any]) -> None:
    """An entry holds exactly the columns; each stored metric is published on its tenant's channel."""
    redis = server("redis")
    _redis_case(redis, "redis")
    with redis.client() as client, client.pubsub() as channel:
        channel.subscribe(f"metrics:{TENANT}")
        assert channel.get_message(timeout=5)["type"] == "subscribe"
        with contextlib.closing(open_sink(redis.url, SinkOptions(stream="s"))) as sink:
            sink.open()
            sink.commit(Batch([metric(0.1, "x"), metric(2, "x"), metric(3)]))
        first, second = (fields for _, fields in client.xrange("s"))
        assert first == {
            "tenant_id": TENANT,
            "agent_id": "a",
            "metric_name": "t",
            "value": "0.1",
            "timestamp_ms": "1700000000123",
            "dedupe_id": "x",
            "tags": '{"unit":"°C"}',
            "received_ms": "1700000000456",
        }
        assert second["dedupe_id"] == ""
        events = [json.loads(channel.get_message(timeout=5)["data"]) for _ in range(2)]
        assert [event["value"] for event in events] == [0.1, 3.0]
        assert events[0]["tags"] == {"unit": "°C"}
        assert channel.get_message(timeout=0.05) is None
        (seen,) = client.keys("{s}:seen:*")
        assert client.smembers(seen) == {f"{TENANT}/a/x"}
        assert 86_400 < client.ttl(seen) <= 3 * 86_400


def test_redis_remembers_for_the_dedupe_window(server: Callable[[str], Any]) -> None:
    """A dedupe_id is known for one window at least and two at most; what is past is forgotten without a trace."""
    redis = server("redis")
    _redis_case(redis, "redis")
    options = SinkOptions(dedupe_window=2)
    with contextlib.closing(open_sink(redis.url, options)) as sink, redis.client() as client:
        sink.open()
        began = time.monotonic()
        assert sink.commit(Batch([metric(1, "x")])) == Committed(1, 0)
        while time.monotonic() < began + 1.2:
            assert sink.commit(Batch([metric(2, "x"), metric(3, "y")])).duplicate >= 1
        while not sink.commit(Batch([metric(4, "x")])).stored:
            assert time.monotonic() < began + 20
        assert time.monotonic() >= began + 2
        assert len(client.keys("{mqttkit:metrics}:seen:*")) <= 2


def test_redis_list_gets_jobs(server: Callable[[str], Any]) -> None:
    """A job is one JSON object with name, id and data."""
    redis = server("redis")
    _redis_case(redis, "list")
    with contextlib.closing(open_sink(redis.url, SinkOptions(list_name="queue", job="Ingest", live=False))) as sink:
        sink.open()
        sink.commit(Batch([metric(1, "x")]))
    with redis.client() as client:
        job = json.loads(client.lpop("queue"))
        assert (job["job"], job["id"], job["data"]["metric_name"]) == ("Ingest", "x", "t")
        assert client.type("queue") == "none"


def test_redis_that_was_started_again_gets_the_script_again(server: Callable[[str], Any]) -> None:
    """A script that Redis forgot is sent whole."""
    redis = server("redis")
    case = _redis_case(redis, "redis")
    with contextlib.closing(case.open()) as sink, redis.client() as client:
        client.script_flush()
        assert sink.commit(Batch([metric(1)])) == Committed(1, 0)


def test_redis_connection_closed_by_the_server(server: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """In use a moment ago it is not looked at first: one try fails, the next is done. Idle, nobody notices."""
    redis = server("redis")
    case = _redis_case(redis, "redis")
    with contextlib.closing(case.open()) as sink, redis.client() as client:
        assert sink.commit(Batch([metric(1, "x")])) == Committed(1, 0)
        client.client_kill_filter(_type="normal", skipme=True)
        batch = Batch([metric(2), metric(3, "x")])
        with pytest.raises(SinkUnavailable, match="redis://"):
            sink.commit(batch)
        assert sink.commit(batch) == Committed(1, 1)
        client.client_kill_filter(_type="normal", skipme=True)
        monkeypatch.setattr("mqttkit.bridge.sinks.redis_connection.IDLE_SECONDS", -1.0)
        assert sink.commit(Batch([metric(4)])) == Committed(1, 0)
    assert case.values() == [1, 2, 4]


def test_redis_answer_that_comes_late_is_nobodys(server: Callable[[str], Any]) -> None:
    """After a time-out the next batch gets its own answer, not the one that was still to come."""
    redis = server("redis")
    case = _redis_case(redis, "redis")
    with contextlib.closing(open_sink(case.address, SinkOptions(timeout=0.5))) as sink:
        sink.open()
        assert sink.commit(Batch([metric(0)])) == Committed(1, 0)
        late = Batch([metric(number, f"d{number}") for number in (1, 2, 3)])
        redis.send(signal.SIGSTOP)
        try:
            with pytest.raises(SinkUnavailable):
                sink.commit(late)
        finally:
            redis.send(signal.SIGCONT)
        assert sink.commit(Batch([metric(4)])) == Committed(1, 0)
        assert sum(sink.commit(late)) == 3
    assert sorted(case.values()) == [0, 1, 2, 3, 4]


def test_redis_key_of_another_kind_is_broken(server: Callable[[str], Any]) -> None:
    """A stream's name that is taken by something else stops the bridge, naming key and kind."""
    redis = server("redis")
    case = _redis_case(redis, "redis")
    with redis.client() as client:
        client.set("mqttkit:metrics", "text")
    sink = open_sink(case.address, SinkOptions())
    with contextlib.closing(sink), pytest.raises(SinkBroken, match="is a string, not a stream"):
        sink.open()


def test_redis_out_of_memory_takes_nothing_of_the_batch(server: Callable[[str], Any]) -> None:
    """At maxmemory the script is refused before its first write; with room it goes through, stored once."""
    redis = server("redis")
    case = _redis_case(redis, "redis")
    with contextlib.closing(case.open()) as sink, redis.client() as client:
        client.config_set("maxmemory", "1")
        batch = Batch([metric(1, "x"), metric(2)])
        with pytest.raises(SinkUnavailable, match=r"OOM|maxmemory"):
            sink.commit(batch)
        client.config_set("maxmemory", "0")
        assert case.values() == []
        assert sink.commit(batch) == Committed(2, 0)


@pytest.mark.parametrize("policy", ["noeviction", "volatile-lru", "allkeys-random"])
def test_redis_that_may_forget_is_warned_of(
    server: Callable[[str], Any], caplog: pytest.LogCaptureFixture, policy: str
) -> None:
    """Without an append-only file, or where keys may be evicted: also those that expire, as dedupe_ids do."""
    redis = server("redis")
    case = _redis_case(redis, "redis")
    with redis.client() as client:
        for appendonly in ("yes", "no"):
            client.config_set("maxmemory-policy", policy)
            client.config_set("appendonly", appendonly)
            case.open().close()
            assert ("keeps no append-only file" in caplog.text) == (appendonly == "no")
        assert (f"maxmemory-policy {policy}" in caplog.text) == (policy != "noeviction")
        client.config_set("maxmemory-policy", "noeviction")
        client.config_set("appendonly", "yes")


def test_redis_password_is_in_no_error() -> None:
    """Names for logs and errors are without the password."""
    with contextlib.closing(open_sink("redis://user:hidden@127.0.0.1:1/0", SinkOptions(timeout=0.5))) as sink:
        with pytest.raises(SinkUnavailable) as caught:
            sink.open()
        assert "hidden" not in f"{caught.value}{sink.name}"


def test_postgresql_columns_have_their_types(server: Callable[[str], Any]) -> None:
    """uuid, double precision, bigint and jsonb."""
    import psycopg

    case = _postgresql_case(server("postgresql"))
    with contextlib.closing(case.open()) as sink:
        sink.commit(Batch([metric(0.1, "x")]))
    with psycopg.connect(case.address) as connection:
        row = connection.execute("SELECT tenant_id::text, value, tags->>'unit', timestamp_ms FROM metrics").fetchone()
    assert row == (TENANT, 0.1, "°C", 1_700_000_000_123)


def test_postgresql_refuses_data_and_tables_of_another_shape(server: Callable[[str], Any]) -> None:
    """Data it cannot store is SinkRefused, a foreign table SinkBroken."""
    import psycopg

    case = _postgresql_case(server("postgresql"))
    with contextlib.closing(case.open()) as sink, pytest.raises(SinkRefused):
        sink.commit(Batch([metric(1, "nul\0")]))
    _postgresql_case(server("postgresql"))
    with psycopg.connect(case.address, autocommit=True) as connection:
        connection.execute("CREATE TABLE metrics (a int)")
    sink = open_sink(case.address, SinkOptions())
    with contextlib.closing(sink), pytest.raises(SinkBroken):
        sink.open()


def test_jsonl_cuts_off_what_was_not_committed(tmp_path: Path) -> None:
    """Lines that a crash left behind the last commit vanish at the next start; rotation loses none."""
    path = tmp_path / "m.jsonl"
    with contextlib.closing(JsonlSink(str(path), SinkOptions(), rotate_bytes=300)) as sink:
        sink.open()
        sink.commit(Batch([metric(1, "x")]))
        with path.open("ab") as file:
            file.write(b'{"value": 99')
    with contextlib.closing(JsonlSink(str(path), SinkOptions(), rotate_bytes=300)) as sink:
        sink.open()
        for number in range(2, 8):
            sink.commit(Batch([metric(number)]))
    files = sorted(tmp_path.glob("m.jsonl*Z-*"))
    assert len(files) >= 2
    lines = "".join(file.read_text() for file in [*files, path]).splitlines()
    assert sorted(json.loads(line)["value"] for line in lines) == [1, 2, 3, 4, 5, 6, 7]


def test_jsonl_file_belongs_to_one_bridge(tmp_path: Path) -> None:
    """A second writer is refused; dead letters can be read beside the first."""
    path = tmp_path / "m.jsonl"
    with contextlib.closing(JsonlSink(str(path), SinkOptions())) as first:
        first.open()
        first.commit(Batch([], [LETTER]))
        with contextlib.closing(JsonlSink(str(path), SinkOptions())) as second:
            assert second.letters.count() == 1
            with pytest.raises(SinkBroken, match="another process"):
                second.open()


def test_http_batch_is_tried_again_under_one_key(tmp_path: Path) -> None:
    """5xx is unavailable and 4xx about the data refuses; each try bears the batch's Idempotency-Key."""
    with http_receiver() as receiver:
        options = SinkOptions(token="secret-token", dead_letters=str(tmp_path / "ledger.db"))
        with contextlib.closing(open_sink(receiver.url, options)) as sink:
            sink.open()
            sink.probe()
            receiver.answers = [422, 401, 503]
            batch = Batch([metric(1, "x")])
            for error in (SinkUnavailable, SinkUnavailable, SinkRefused):
                with pytest.raises(error) as caught:
                    sink.commit(batch)
                assert "secret-token" not in str(caught.value)
            assert sink.commit(batch) == Committed(1, 0)
            assert sink.commit(Batch([metric(2, "x")])) == Committed(0, 1)
        ((headers, body),) = receiver.requests
        assert headers["Idempotency-Key"] == batch.id
        assert headers["Authorization"] == "Bearer secret-token"
        assert body[0]["tags"] == {"unit": "°C"}


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


@pytest.mark.parametrize("address", ["redis://127.0.0.1:x", "redis+sentinel://127.0.0.1", "http://", "http://u:p@h/"])
def test_address_that_cannot_work_is_an_error_of_usage(address: str) -> None:
    """It is found before anything is opened."""
    with pytest.raises(MqttkitError) as caught:
        open_sink(address, SinkOptions())
    assert caught.value.exit_code == 2


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
