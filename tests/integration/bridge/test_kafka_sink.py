"""The kafka sink against the mock cluster of librdkafka: what it produces, repeats and refuses."""

from __future__ import annotations

import contextlib
import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mqttkit.bridge.sinks import open_sink
from mqttkit.bridge.sinks.remote.kafka import KafkaDestination
from mqttkit.bridge.sinks.types import Committed, MetricBatch, SinkOptions
from mqttkit.errors import MqttkitError, SinkRefused, SinkUnavailable
from tests.support.kafka import KafkaCluster, kafka_cluster
from tests.support.sinks import commit_until_done, keep_pending, ledger_sink, metric


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaCluster]:
    with kafka_cluster(tmp_path_factory.mktemp("kafka")) as running:
        yield running


def stored(address: str) -> list[dict[str, Any]]:
    with contextlib.closing(KafkaDestination(address, SinkOptions())) as destination:
        return [json.loads(data) for data in destination.read()]


def test_kafka_keeps_the_order_of_an_agent(cluster: KafkaCluster, tmp_path: Path) -> None:
    """The key is tenant and agent, so all messages of one agent are in one partition."""
    address = cluster.address("order")
    with ledger_sink(address, tmp_path) as sink:
        for start in range(0, 60, 20):
            sink.commit(MetricBatch([metric(n, agent=f"a{n % 3}") for n in range(start, start + 20)]))
    found = stored(address)
    for agent in ("a0", "a1", "a2"):
        values = [row["value"] for row in found if row["agent_id"] == agent]
        assert values == [float(n) for n in range(60) if f"a{n % 3}" == agent]
    assert found[0]["tags"] == {"unit": "°C"}


def test_kafka_repeats_only_what_is_missing_after_a_crash(cluster: KafkaCluster, tmp_path: Path) -> None:
    """Another process has no memory of the first one's producer; it reads the topic and produces the rest."""
    address = cluster.address("crash")
    metrics = [metric(number, f"d{number}" if number % 2 else None, agent=f"a{number}") for number in range(20)]
    with ledger_sink(address, tmp_path) as sink:
        sink.commit(MetricBatch([metric(99)]))
        post = keep_pending(sink, metrics)
        sink._destination.send(post._replace(body=b"\n".join(post.body.split(b"\n")[:11])), repeated=False)
    with ledger_sink(address, tmp_path) as sink:
        sink.probe()
        assert sink._ledger_file().pending_batches() == []
    assert sorted(row["value"] for row in stored(address)) == [*range(20), 99]


def test_kafka_that_hangs_is_unavailable_and_gets_each_message_once(tmp_path: Path) -> None:
    """The producer keeps the messages of the batch; the next attempt waits for them instead of producing them again."""
    with kafka_cluster(tmp_path / "kafka") as cluster:
        address = cluster.address("hangs")
        batch = MetricBatch([metric(number) for number in range(50)])
        with ledger_sink(address, tmp_path, timeout=1.0) as sink:
            commit_until_done(sink, MetricBatch([metric(99)]))
            cluster.send(signal.SIGSTOP)
            try:
                for _ in range(2):
                    with pytest.raises(SinkUnavailable, match="not delivered within 1 s"):
                        sink.commit(batch)
            finally:
                cluster.send(signal.SIGCONT)
            assert commit_until_done(sink, batch) == Committed(50, 0)
        assert sorted(row["value"] for row in stored(address)) == [*range(50), 99]


NOT_LEADER, TIMED_OUT, TOO_FEW_REPLICAS, NO_RIGHT, OUT_OF_ORDER = 6, 7, 19, 29, 45


@pytest.mark.parametrize("code", [NOT_LEADER, TIMED_OUT, TOO_FEW_REPLICAS, NO_RIGHT, OUT_OF_ORDER])
def test_kafka_that_answers_an_error_gets_each_message_once(cluster: KafkaCluster, tmp_path: Path, code: int) -> None:
    """librdkafka repeats a request after passing errors; after others the sink reads the topic and makes a producer."""
    address = cluster.address(f"error-{code}")
    batch = MetricBatch([metric(number, agent=f"a{number}") for number in range(50)])
    with ledger_sink(address, tmp_path, timeout=60.0) as sink:
        sink.commit(MetricBatch([metric(99)]))
        cluster.answer_errors(code)
        if code in (NO_RIGHT, OUT_OF_ORDER):
            with pytest.raises(SinkUnavailable, match=r"authorization failed|sequence"):
                sink.commit(batch)
        assert sink.commit(batch) == Committed(50, 0)
    assert sorted(row["value"] for row in stored(address)) == [*range(50), 99]


def test_kafka_that_is_away_is_unavailable(tmp_path: Path) -> None:
    """Nothing counts as stored."""
    with (
        ledger_sink("kafka://127.0.0.1:1/t", tmp_path, timeout=0.5) as sink,
        pytest.raises(SinkUnavailable, match=r"kafka://127\.0\.0\.1:1/t"),
    ):
        sink.commit(MetricBatch([metric(1)]))


def test_kafka_message_that_no_broker_takes_is_refused(cluster: KafkaCluster, tmp_path: Path) -> None:
    """It is found before anything of the batch is produced."""
    with (
        ledger_sink(cluster.address("large"), tmp_path) as sink,
        pytest.raises(SinkRefused, match="bytes, the limit is"),
    ):
        sink.commit(MetricBatch([metric(1), metric(2)._replace(tags=json.dumps({"x": "y" * 1_000_000}))]))
    assert stored(cluster.address("large")) == []


def test_kafka_password_comes_from_a_file(tmp_path: Path) -> None:
    """User and options of the address, and the password of the file, reach librdkafka."""
    (tmp_path / "password").write_text("secret\n")
    options = SinkOptions(password_file=str(tmp_path / "password"))
    destination = KafkaDestination("kafkas://me@h:9093,i:9093/t?sasl.mechanism=SCRAM-SHA-256", options)
    found = destination._configuration()
    assert "secret" not in destination.name
    assert {name: found[name] for name in found if name.startswith(("sasl", "sec", "boot"))} == {
        "bootstrap.servers": "h:9093,i:9093",
        "security.protocol": "SASL_SSL",
        "sasl.mechanism": "SCRAM-SHA-256",
        "sasl.username": "me",
        "sasl.password": "secret",
    }


@pytest.mark.parametrize("address", ["kafka://h", "kafka://h/a/b", "kafka://u:p@h/t", "kafka://h/t?sasl.password=x"])
def test_kafka_address_that_cannot_work_is_an_error_of_usage(address: str) -> None:
    """It is found before anything is opened."""
    with pytest.raises(MqttkitError) as caught:
        open_sink(address, SinkOptions())
    assert caught.value.exit_code == 2
