"""`mqttkit bridge verify`: the proof on the user's own set-up."""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from mqttkit.bridge.worker.stream_worker import StreamWorker, WorkerSettings
from mqttkit.cli import cli
from mqttkit.client import MqttClient
from mqttkit.settings import BridgeSettings
from tests.support.bridges import QUEUE_WITHOUT_LIMIT, TENANT, mqtt_settings
from tests.support.brokers import mosquitto
from tests.support.kafka import kafka_cluster
from tests.support.line_servers import influx_server, victoria_server
from tests.support.nats import nats_server
from tests.support.postgres import postgres
from tests.support.redis import redis_server

pytestmark = pytest.mark.system


def verify(port: int, sink: str, tmp_path: Path, *more: str) -> tuple[int, dict[str, int]]:
    known = tmp_path / "tenants.yaml"
    known.write_text(f"- {TENANT}\n")
    words = ["bridge", "verify", "-h", "127.0.0.1", "-p", str(port), "--sink", sink, "--tenants", str(known), *more]
    result = CliRunner().invoke(cli, words)
    found = {name: int(number) for name, number in re.findall(r"(\w+)=(\d+)(?= )", result.output)}
    return result.exit_code, found


def test_proof_leaves_nothing_behind(tmp_path: Path) -> None:
    """Killed three times, all metrics are there once. Neither file nor session nor member of the group stays."""
    with mosquitto(tmp_path / "mosquitto", QUEUE_WITHOUT_LIMIT) as broker:
        options = ("--count", "6000", "--kill", "3", "--group", "ingest")
        code, found = verify(broker.port, f"sqlite:{tmp_path / 'm.db'}", tmp_path, *options)
        assert found["published"] == found["stored"] == 6_000
        assert (found["lost"], found["twice"], found["kills"], code) == (0, 0, 3, 0)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["mosquitto", "tenants.yaml"]
        assert "$share/ingest/metrics/_mqttkit/verify-" in broker.log
        with MqttClient(mqtt_settings(broker.port)) as client:
            client.connect(timeout=10)
            client.subscribe("metrics/#")
            assert list(client.messages(timeout=0.5)) == []


@pytest.mark.parametrize("where", [(), ("--in-place",)])
def test_proof_beside_a_consumer(tmp_path: Path, where: tuple[str, ...]) -> None:
    """A worker that empties the stream does not disturb the proof; with --in-place the metrics stay there."""
    with (
        mosquitto(tmp_path / "mosquitto", QUEUE_WITHOUT_LIMIT) as broker,
        redis_server(tmp_path / "redis") as redis,
        redis.client() as client,
        consumer(redis.url, f"sqlite:{tmp_path / 'worker.db'}") as worker,
    ):
        stream = ("--stream", "other") if where else ()
        code, found = verify(broker.port, redis.url, tmp_path, "--count", "2000", "--kill", "1", *stream, *where)
        assert (found["stored"], found["lost"], found["twice"], code) == (2_000, 0, 0, 0)
        assert client.xlen("other") == (2_000 if where else 0)
        assert worker.books.balance().received == 0
        if not where:
            assert list(client.scan_iter("*verify*")) == []


@contextlib.contextmanager
def consumer(source: str, sink: str) -> Iterator[StreamWorker]:
    worker = StreamWorker(WorkerSettings(source=source, bridge=BridgeSettings(sink=sink)))
    thread = threading.Thread(target=worker.run)
    thread.start()
    try:
        yield worker
    finally:
        worker.stop()
        thread.join(20)


def test_proof_fails_where_the_broker_drops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a short broker queue metrics are lost while the bridge is dead: counted, exit code 1."""
    monkeypatch.setattr("mqttkit.bridge.verification.proof.STALL_SECONDS", 2.0)
    monkeypatch.setattr("mqttkit.bridge.verification.proof.LOST_SECONDS", 2.0)
    with mosquitto(tmp_path / "mosquitto", "max_queued_messages 50") as broker:
        code, found = verify(broker.port, f"sqlite:{tmp_path / 'm.db'}", tmp_path, "--count", "8000", "--kill", "2")
        assert found["lost"] == 8_000 - found["stored"] > 0
        assert code == 1


@pytest.mark.parametrize("kind", ["jsonl", "list", "postgresql"])
def test_proof_with_every_other_sink(tmp_path: Path, kind: str) -> None:
    """Killed in mid-batch, the bridge stores every metric once."""
    with mosquitto(tmp_path / "mosquitto", QUEUE_WITHOUT_LIMIT) as broker, contextlib.ExitStack() as stack:
        options: tuple[str, ...] = ()
        if kind == "jsonl":
            sink = f"jsonl:{tmp_path / 'm.jsonl'}"
        elif kind == "list":
            sink, options = stack.enter_context(redis_server(tmp_path / "redis")).url, ("--list", "jobs")
        else:
            sink = stack.enter_context(postgres(tmp_path)).url
        code, found = verify(broker.port, sink, tmp_path, "--count", "2000", "--kill", "1", *options)
        assert (found["stored"], found["lost"], found["twice"], found["kills"], code) == (2_000, 0, 0, 1, 0)


@pytest.mark.parametrize("kind", ["influx", "victoria", "nats", "kafka"])
def test_proof_with_a_ledger(tmp_path: Path, kind: str) -> None:
    """Killed in mid-batch, the bridge stores every metric once, though the server has no transactions."""
    with mosquitto(tmp_path / "mosquitto", QUEUE_WITHOUT_LIMIT) as broker, remote_server(kind, tmp_path / kind) as sink:
        code, found = verify(broker.port, sink, tmp_path, "--count", "2000", "--kill", "1")
        assert (found["stored"], found["lost"], found["twice"], found["kills"], code) == (2_000, 0, 0, 1, 0)


@contextlib.contextmanager
def remote_server(kind: str, directory: Path) -> Iterator[str]:
    """Run a server; yield its address as a sink."""
    if kind == "influx":
        with influx_server(directory) as influx:
            yield influx.address("metrics")
    elif kind == "kafka":
        with kafka_cluster(directory) as kafka:
            yield kafka.address("metrics")
    elif kind == "nats":
        with nats_server(directory) as nats:
            yield nats.address("METRICS")
    else:
        with victoria_server(directory) as victoria:
            yield victoria.url
