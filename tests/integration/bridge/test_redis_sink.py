"""The Redis sink: stream, list, script and warnings."""

from __future__ import annotations

import contextlib
import json
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest

from mqttkit.bridge.sinks import open_sink
from mqttkit.bridge.sinks.types import Committed, MetricBatch, SinkOptions
from mqttkit.errors import SinkBroken, SinkUnavailable
from tests.support.bridges import TENANT
from tests.support.sinks import commit_until_done, metric, redis_case


def test_redis_stream_has_one_field_a_column_and_tells_live_views(server: Callable[[str], Any]) -> None:
    """An entry holds exactly the columns; each stored metric is published on its tenant's channel."""
    redis = server("redis")
    redis_case(redis, "redis")
    with redis.client() as client, client.pubsub() as channel:
        channel.subscribe(f"metrics:{TENANT}")
        assert channel.get_message(timeout=60)["type"] == "subscribe"
        with contextlib.closing(open_sink(redis.url, SinkOptions(stream="s"))) as sink:
            sink.open()
            sink.commit(MetricBatch([metric(0.1, "x"), metric(2, "x"), metric(3)]))
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
        events = [json.loads(channel.get_message(timeout=60)["data"]) for _ in range(2)]
        assert [event["value"] for event in events] == [0.1, 3.0]
        assert events[0]["tags"] == {"unit": "°C"}
        assert channel.get_message(timeout=0.05) is None
        (seen,) = client.keys("{s}:ids:*")
        assert client.smembers(seen) == {f"{TENANT}/a/t/x"}
        assert 86_400 < client.ttl(seen) <= 3 * 86_400


def test_redis_remembers_for_the_dedupe_window(server: Callable[[str], Any]) -> None:
    """A dedupe_id is known for one window at least and two at most; what is past is forgotten without a trace."""
    redis = server("redis")
    redis_case(redis, "redis")
    options = SinkOptions(dedupe_window=2)
    with contextlib.closing(open_sink(redis.url, options)) as sink, redis.client() as client:
        sink.open()
        began = time.monotonic()
        assert sink.commit(MetricBatch([metric(1, "x")])) == Committed(1, 0)
        while time.monotonic() < began + 1.2:
            assert sink.commit(MetricBatch([metric(2, "x"), metric(3, "y")])).duplicate >= 1
        while not sink.commit(MetricBatch([metric(4, "x")])).stored:
            assert time.monotonic() < began + 60
        assert time.monotonic() >= began + 2
        assert len(client.keys("{mqttkit:metrics}:ids:*")) <= 2


def test_redis_knows_a_retained_message_beyond_the_dedupe_window(server: Callable[[str], Any]) -> None:
    """A new subscription days later brings it again; another content is stored."""
    redis = server("redis")
    case = redis_case(redis, "redis")
    one, other = (f"retained:{digit * 40}" for digit in "ab")
    batch = MetricBatch([metric(1, one), metric(2, "x")], contents={0: one})
    with contextlib.closing(case.open()) as sink, redis.client() as client:
        assert sink.commit(batch) == Committed(2, 0)
        client.delete(*client.keys("{mqttkit:metrics}:ids:*"))
        assert sink.commit(MetricBatch(batch.metrics, contents=batch.contents)) == Committed(1, 1)
        assert sink.commit(MetricBatch([metric(3, other)], contents={0: other})) == Committed(1, 0)
    assert case.values() == [1, 2, 2, 3]


def test_redis_finds_the_duplicates_of_an_earlier_version(server: Callable[[str], Any]) -> None:
    """Ids that were stored without the metric's name count until they expire."""
    redis = server("redis")
    case = redis_case(redis, "redis")
    with contextlib.closing(case.open()) as sink, redis.client() as client:
        assert sink.commit(MetricBatch([metric(1, "x")])) == Committed(1, 0)
        (ids,) = client.keys("{mqttkit:metrics}:ids:*")
        client.delete(ids)
        client.sadd(ids.replace(":ids:", ":seen:"), f"{TENANT}/a/x")
        assert sink.commit(MetricBatch([metric(1, "x"), metric(2, "y")])) == Committed(1, 1)
        assert sink.commit(MetricBatch([metric(3, "y")._replace(metric_name="u")])) == Committed(1, 0)
    assert case.values() == [1, 2, 3]


def test_redis_list_gets_jobs(server: Callable[[str], Any]) -> None:
    """A job is one JSON object with name, id and data."""
    redis = server("redis")
    redis_case(redis, "list")
    with contextlib.closing(open_sink(redis.url, SinkOptions(list_name="queue", job="Ingest", live=False))) as sink:
        sink.open()
        sink.commit(MetricBatch([metric(1, "x")]))
    with redis.client() as client:
        job = json.loads(client.lpop("queue"))
        assert (job["job"], job["id"], job["data"]["metric_name"]) == ("Ingest", "x", "t")
        assert client.type("queue") == "none"


def test_redis_that_was_started_again_gets_the_script_again(server: Callable[[str], Any]) -> None:
    """A script that Redis forgot is sent whole."""
    redis = server("redis")
    case = redis_case(redis, "redis")
    with contextlib.closing(case.open()) as sink, redis.client() as client:
        client.script_flush()
        assert sink.commit(MetricBatch([metric(1)])) == Committed(1, 0)


def test_redis_connection_closed_by_the_server(server: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """In use a moment ago it is not looked at first: one try fails, the next is done. Idle, nobody notices."""
    monkeypatch.setattr("mqttkit.bridge.sinks.redis_connection.IDLE_SECONDS", 3_600.0)
    redis = server("redis")
    case = redis_case(redis, "redis")
    with contextlib.closing(case.open()) as sink, redis.client() as client:
        assert sink.commit(MetricBatch([metric(1, "x")])) == Committed(1, 0)
        client.client_kill_filter(_type="normal", skipme=True)
        batch = MetricBatch([metric(2), metric(3, "x")])
        with pytest.raises(SinkUnavailable, match="redis://"):
            sink.commit(batch)
        assert sink.commit(batch) == Committed(1, 1)
        client.client_kill_filter(_type="normal", skipme=True)
        monkeypatch.setattr("mqttkit.bridge.sinks.redis_connection.IDLE_SECONDS", -1.0)
        assert sink.commit(MetricBatch([metric(4)])) == Committed(1, 0)
    assert case.values() == [1, 2, 4]


def test_redis_answer_that_comes_late_is_nobodys(server: Callable[[str], Any]) -> None:
    """After a time-out the next batch gets its own answer, not the one that was still to come."""
    redis = server("redis")
    case = redis_case(redis, "redis")
    with contextlib.closing(open_sink(case.address, SinkOptions(timeout=2.0))) as sink:
        sink.open()
        assert sink.commit(MetricBatch([metric(0)])) == Committed(1, 0)
        late = MetricBatch([metric(number, f"d{number}") for number in (1, 2, 3)])
        redis.send(signal.SIGSTOP)
        try:
            with pytest.raises(SinkUnavailable):
                sink.commit(late)
        finally:
            redis.send(signal.SIGCONT)
        assert commit_until_done(sink, MetricBatch([metric(4)])) == Committed(1, 0)
        assert sum(commit_until_done(sink, late)) == 3
    assert sorted(case.values()) == [0, 1, 2, 3, 4]


def test_redis_key_of_another_kind_is_broken(server: Callable[[str], Any]) -> None:
    """A stream's name that is taken by something else stops the bridge, naming key and kind."""
    redis = server("redis")
    case = redis_case(redis, "redis")
    with redis.client() as client:
        client.set("mqttkit:metrics", "text")
    sink = open_sink(case.address, SinkOptions())
    with contextlib.closing(sink), pytest.raises(SinkBroken, match="is a string, not a stream"):
        sink.open()


def test_redis_out_of_memory_takes_nothing_of_the_batch(server: Callable[[str], Any]) -> None:
    """At maxmemory the script is refused before its first write; with room it goes through, stored once."""
    redis = server("redis")
    case = redis_case(redis, "redis")
    with contextlib.closing(case.open()) as sink, redis.client() as client:
        client.config_set("maxmemory", "1")
        batch = MetricBatch([metric(1, "x"), metric(2)])
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
    case = redis_case(redis, "redis")
    with redis.client() as client:
        for appendonly in ("yes", "no"):
            client.config_set("maxmemory-policy", policy)
            client.config_set("appendonly", appendonly)
            case.open().close()
            assert ("has no append-only file" in caplog.text) == (appendonly == "no")
        assert caplog.text.count("appendfsync everysec") == 1
        assert (f"maxmemory-policy {policy}" in caplog.text) == (policy != "noeviction")
        client.config_set("maxmemory-policy", "noeviction")
        client.config_set("appendonly", "yes")


def test_redis_password_is_in_no_error() -> None:
    """Names for logs and errors are without the password."""
    with contextlib.closing(open_sink("redis://user:hidden@127.0.0.1:1/0", SinkOptions(timeout=0.5))) as sink:
        with pytest.raises(SinkUnavailable) as caught:
            sink.open()
        assert "hidden" not in f"{caught.value}{sink.name}"
