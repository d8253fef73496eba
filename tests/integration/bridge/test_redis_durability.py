"""--redis-durability: when a batch counts as stored."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mqttkit.bridge.sinks import open_sink
from mqttkit.bridge.sinks.types import MetricBatch, SinkOptions
from mqttkit.errors import SinkBroken, SinkUnavailable, UsageError
from tests.support.redis import redis_server, redis_servers
from tests.support.sid import sid_programs
from tests.support.sinks import metric


@pytest.fixture
def redis_8(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the tests find sid's Redis first."""
    place = sid_programs("redis-server")
    monkeypatch.setenv("PATH", f"{place}{os.pathsep}{os.environ['PATH']}")


def test_batch_waits_for_a_replica(tmp_path: Path) -> None:
    """With --redis-durability replica a batch is stored once a replica has it, and once only."""
    with redis_servers(tmp_path, 2) as (master, replica):
        options = SinkOptions(durability="replica", timeout=2.0, live=False)
        with contextlib.closing(open_sink(master.url, options)) as sink, replica.client() as client:
            sink.open()
            batch = MetricBatch([metric(1)])
            for _ in range(2):
                with pytest.raises(SinkUnavailable, match="no replica had the batch"):
                    sink.commit(batch)
            client.replicaof("127.0.0.1", master.port)
            while True:
                with contextlib.suppress(SinkUnavailable):
                    assert sink.commit(batch).stored == 1
                    break
            assert client.xlen("mqttkit:metrics") == 1


def test_fsync_needs_a_redis_that_has_it(server: Callable[[str], Any]) -> None:
    """Redis before 7.2 has no WAITAOF: the bridge ends with an error instead of acknowledging early."""
    redis = server("redis")
    with redis.client() as client:
        version = client.info("server")["redis_version"]
    options = SinkOptions(durability="fsync")
    with contextlib.closing(open_sink(redis.url, options)) as sink:
        if tuple(map(int, version.split(".")[:2])) < (7, 2):
            with pytest.raises(SinkBroken, match="does not have WAITAOF"):
                sink.open()
        else:
            sink.open()
            assert sink.commit(MetricBatch([metric(1)])).stored == 1
    with pytest.raises(UsageError, match="does not work with a cluster"):
        open_sink("redis+cluster://127.0.0.1:7000", options)


@pytest.mark.usefixtures("redis_8")
def test_batch_waits_for_the_disk(tmp_path: Path) -> None:
    """With --redis-durability fsync a batch is stored once it is on disk, and once only."""
    options = SinkOptions(durability="fsync", timeout=2.0, live=False)
    batch = MetricBatch([metric(1)])
    with (
        redis_server(tmp_path, "appendfsync no") as redis,
        redis.client() as client,
        contextlib.closing(open_sink(redis.url, options)) as sink,
    ):
        sink.open()
        for _ in range(2):
            with pytest.raises(SinkUnavailable, match="the batch was not on disk after 1000 ms"):
                sink.commit(batch)
        client.config_set("appendfsync", "always")
        while True:
            with contextlib.suppress(SinkUnavailable):
                assert sink.commit(batch).stored == 1
                break
        assert client.xlen("mqttkit:metrics") == 1


@pytest.mark.usefixtures("redis_8")
def test_fsync_needs_an_append_only_file(tmp_path: Path) -> None:
    """Without one no batch would ever be on disk: the bridge ends and says what to set."""
    with (
        redis_server(tmp_path, "appendonly no") as redis,
        contextlib.closing(open_sink(redis.url, SinkOptions(durability="fsync"))) as sink,
        pytest.raises(SinkBroken, match="has no append-only file") as caught,
    ):
        sink.open()
    assert caught.value.hint == "Set `appendonly yes` in Redis"
