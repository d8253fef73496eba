"""Live events of the Redis sink: written by the script, and only where somebody may hear them."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mqttkit.bridge.json_record import encode_json, json_record
from mqttkit.bridge.metric import Metric
from mqttkit.bridge.sinks import open_sink
from mqttkit.bridge.sinks.types import Committed, MetricBatch, SinkOptions
from tests.support.bridges import TENANT, wait_until
from tests.support.redis import RedisServer, redis_cluster, redis_server, redis_servers

CHANNEL = f"metrics:{TENANT}"
AWKWARD = [
    Metric(TENANT, "a", "t", 0.1, 1_700_000_000_123, 'quote " back \\ slash / ü 漢 😀', '{"unit":"°C","ok":true}', 7),
    Metric(TENANT, "a.b:c@d-e", "t", 1e300, 0, None, None, 7_258_118_399_999),
    Metric(TENANT, "a", "t", -1.5e-7, 7_258_118_399_999, "null", '{"a":null}', 8),
]


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    with redis_server(tmp_path / "redis") as server:
        yield server


@contextlib.contextmanager
def listening(client: Any, *, pattern: bool = False) -> Iterator[Any]:
    """A subscription that the server has confirmed."""
    with client, client.pubsub() as channel:
        channel.psubscribe("metrics:*") if pattern else channel.subscribe(CHANNEL)
        assert channel.get_message(timeout=60)["type"] in ("subscribe", "psubscribe")
        yield channel


def commit(address: str, metrics: list[Metric]) -> Committed:
    with contextlib.closing(open_sink(address, SinkOptions(timeout=60))) as sink:
        sink.open()
        return sink.commit(MetricBatch(metrics))


def heard(channel: Any) -> Any:
    message = channel.get_message(timeout=60)
    assert message is not None
    return json.loads(message["data"])


@pytest.mark.parametrize("pattern", [False, True])
def test_event_says_what_every_other_sink_says(redis: RedisServer, pattern: bool) -> None:
    """Whatever a dedupe_id holds and however large a number is, the event is the metric's one form in JSON."""
    with listening(redis.client(), pattern=pattern) as channel:
        assert commit(redis.url, AWKWARD) == Committed(3, 0)
        assert [heard(channel) for _ in AWKWARD] == [json.loads(encode_json(json_record(metric))) for metric in AWKWARD]


def test_nothing_is_published_to_nobody(redis: RedisServer) -> None:
    """Without a subscriber Redis publishes nothing; from the first one on, all of what is stored."""
    with redis.client() as client:
        commit(redis.url, AWKWARD)
        assert "cmdstat_publish" not in client.info("commandstats")
        with listening(redis.client()):
            commit(redis.url, [metric._replace(metric_name="u", dedupe_id=None) for metric in AWKWARD])
        assert client.info("commandstats")["cmdstat_publish"]["calls"] == len(AWKWARD)
        assert client.xlen("mqttkit:metrics") == 2 * len(AWKWARD)


def test_listener_at_a_replica_hears(tmp_path: Path) -> None:
    """A replica passes on what its master publishes, and the master does not know who listens there."""
    with redis_servers(tmp_path, 2, "repl-diskless-sync-delay 0") as (master, replica):
        with replica.client() as client:
            client.replicaof("127.0.0.1", master.port)
            wait_until(lambda: client.info("replication").get("master_link_status") == "up")
        with listening(replica.client()) as channel:
            commit(master.url, AWKWARD)
            assert heard(channel)["value"] == 0.1


def test_listener_at_any_node_of_a_cluster_hears(tmp_path: Path) -> None:
    """A cluster's nodes pass on to each other, and know only their own listeners: one node has one at a time."""
    import redis

    with redis_cluster(tmp_path, 3) as address:
        for number, host in enumerate(address.rpartition("/")[2].split(",")):
            client = redis.Redis(port=int(host.rpartition(":")[2]), decode_responses=True)
            with listening(client) as channel:
                commit(address, [AWKWARD[0]._replace(dedupe_id=f"d{number}")])
                # The event that was meant for the node before may still be on its way through the cluster.
                assert wait_until(lambda channel=channel, number=number: heard(channel)["dedupe_id"] == f"d{number}")


def test_user_who_may_not_ask_who_listens_publishes_to_all(redis: RedisServer) -> None:
    """Where an access list forbids INFO and PUBSUB the script cannot know, and leaves nobody out."""
    with redis.client() as client:
        client.acl_setuser("ingest", enabled=True, passwords=["+pw"], keys=["*"], channels=["*"], categories=["+@all"])
        client.execute_command("ACL", "SETUSER", "ingest", "-@dangerous", "-pubsub", "+keys")
    with listening(redis.client()) as channel:
        address = redis.url.replace("//", "//ingest:pw@")
        assert commit(address, AWKWARD) == Committed(3, 0)
        assert heard(channel)["value"] == 0.1
    with redis.client() as client:
        denied = {entry["object"] for entry in client.acl_log() if entry["context"] == "lua"}
        assert denied >= {"info"}
