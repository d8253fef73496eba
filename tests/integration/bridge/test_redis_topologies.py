"""Redis behind Sentinel and as a Cluster: the same sink, through a fail-over."""

from __future__ import annotations

import contextlib
import signal
from pathlib import Path

import pytest

from mqttkit.bridge.metric import Metric
from mqttkit.bridge.sinks import open_sink
from mqttkit.bridge.sinks.types import Committed, MetricBatch, SinkOptions
from mqttkit.errors import SinkUnavailable
from tests.support.bridges import TENANT, wait_until
from tests.support.redis import RedisServer, redis_cluster, redis_servers
from tests.support.sinks import commit_until_done

STREAM = "mqttkit:metrics"


def metrics(first: int, last: int) -> list[Metric]:
    return [Metric(TENANT, f"a{n % 7}", "t", float(n), 1, f"d{n}", None, 2) for n in range(first, last)]


def test_sentinel_leads_to_the_new_master(tmp_path: Path) -> None:
    """When the master dies Sentinel promotes the replica; batches go on there, a dedupe_id still counts once."""
    with redis_servers(tmp_path, 2, "repl-diskless-sync-delay 0") as (master, replica):
        with replica.client() as client:
            client.replicaof("127.0.0.1", master.port)
            wait_until(lambda: client.info("replication").get("master_link_status") == "up")
        sentinel = RedisServer(
            tmp_path / "sentinel",
            (
                f"sentinel monitor metrics 127.0.0.1 {master.port} 1",
                "sentinel down-after-milliseconds metrics 2000",
                "sentinel failover-timeout metrics 2000",
            ),
            mode=("--sentinel",),
        )
        sentinel.start()
        try:
            with sentinel.client() as watcher:
                wait_until(lambda: watcher.sentinel_slaves("metrics"))
            address = f"redis+sentinel://127.0.0.1:{sentinel.port}/metrics"
            with contextlib.closing(open_sink(address, SinkOptions(timeout=10))) as sink:
                sink.open()
                assert sink.commit(MetricBatch(metrics(0, 100))) == Committed(100, 0)
                with master.client() as client:
                    assert client.wait(1, 60_000) == 1
                master.stop(signal.SIGKILL)
                assert commit_until_done(sink, MetricBatch(metrics(50, 200))) == Committed(100, 50)
            with replica.client() as client:
                assert client.xlen(STREAM) == 200
        finally:
            sentinel.stop()


def test_cluster_keeps_a_streams_keys_in_one_slot(tmp_path: Path) -> None:
    """Stream, dedupe keys and dead letters are in one slot, so that one script may write them all."""
    with redis_cluster(tmp_path, 3) as address:
        for stream in (STREAM, "other", "{tagged}:stream"):
            with contextlib.closing(open_sink(address, SinkOptions(stream=stream, timeout=60))) as sink:
                sink.open()
                sink.probe()
                assert sink.commit(MetricBatch(metrics(0, 60))) == Committed(60, 0)
                assert sink.commit(MetricBatch(metrics(30, 90))) == Committed(30, 30)
                assert sink.letters.count() == 0


@pytest.mark.parametrize("address", ["redis+sentinel://127.0.0.1:1/metrics", "redis+cluster://127.0.0.1:1"])
def test_topology_out_of_reach_is_unavailable(address: str) -> None:
    """Neither a Sentinel nor a cluster node answers: SinkUnavailable, to be tried again."""
    with pytest.raises(SinkUnavailable), contextlib.closing(open_sink(address, SinkOptions(timeout=0.5))) as sink:
        sink.open()
