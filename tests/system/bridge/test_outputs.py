"""Several outputs in one process: each has its own progress, whatever happens to the others."""

from __future__ import annotations

import json
import signal
from collections.abc import Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner

from mqttkit.cli import cli
from mqttkit.client import MqttClient
from tests.support.bridges import (
    QUEUE_WITHOUT_LIMIT,
    TENANT,
    BridgeProcess,
    body,
    bridge,
    bridged,
    metric_topic,
    publish_numbers,
    publisher,
    rows,
    stored_numbers,
    wait_until,
)
from tests.support.brokers import mosquitto
from tests.support.redis import redis_server

pytestmark = pytest.mark.system


def write_config(path: Path, *outputs: str) -> str:
    lines = "".join(f"    - {{{output}}}\n" for output in outputs)
    path.write_text(f"bridge:\n  outputs:\n{lines}")
    path.chmod(0o600)
    return str(path)


def publish_named(client: MqttClient, names: Sequence[str], payload: bytes) -> None:
    receipts = [client.publish(metric_topic(metric=name), payload, qos=1, wait=20) for name in names]
    assert client.flush(30)
    assert len(receipts) == len(names)


def of_output(process: BridgeProcess, sample: str, output: str) -> float:
    return process.number(f'{sample}{{output="{output}"}}')


def test_dead_output_does_not_stop_the_other(tmp_path: Path) -> None:
    """Redis is down, then the bridge is killed: SQLite has everything at once, Redis gets all of it later, once."""
    total = 3_000
    database = tmp_path / "m.db"
    with redis_server(tmp_path / "redis") as redis, mosquitto(tmp_path / "mosquitto", QUEUE_WITHOUT_LIMIT) as broker:
        config = write_config(
            tmp_path / "c.yaml", f"sink: 'sqlite:{database}'", f"sink: '{redis.url}', sink_timeout: 1"
        )
        with bridge(tmp_path / "b", broker.port, config=config) as process, publisher(broker.port) as client:
            publish_numbers(client, range(total // 3))
            wait_until(lambda: of_output(process, "acknowledged_messages_total", "redis") == total // 3)
            redis.stop(signal.SIGKILL)
            publish_numbers(client, range(total // 3, total * 2 // 3))
            wait_until(lambda: rows(database) == [(total * 2 // 3,)])
            wait_until(lambda: process.not_ready_because("redis: "))
            process.kill()
            publish_numbers(client, range(total * 2 // 3, total))
            process.start(ready=False)
            wait_until(lambda: rows(database) == [(total,)])
            redis.start()
            wait_until(process.is_ready)
            with redis.client() as reader:
                wait_until(lambda: reader.xlen("mqttkit:metrics") >= total)
                assert process.stop() == 0
                values = [int(float(fields["value"])) for _, fields in reader.xrange("mqttkit:metrics")]
        assert sorted(values) == stored_numbers(database) == list(range(total))


def test_each_sink_option_is_an_output(tmp_path: Path) -> None:
    """With two --sink and one of them dead, the other goes on; the dead one's metrics arrive when it is back."""
    total, half = 2_000, 1_000
    database = tmp_path / "m.db"
    with (
        redis_server(tmp_path / "redis") as redis,
        bridged(tmp_path, "--sink", redis.url, sink=f"sqlite:{database}") as (_, process, client),
    ):
        redis.stop(signal.SIGKILL)
        publish_numbers(client, range(half))
        wait_until(lambda: rows(database) == [(half,)])
        wait_until(lambda: process.not_ready_because("redis: "))
        redis.start()
        publish_numbers(client, range(half, total))
        wait_until(lambda: of_output(process, "acknowledged_messages_total", "redis") == total)
        wait_until(lambda: rows(database) == [(total,)])
        with redis.client() as reader:
            values = [int(float(fields["value"])) for _, fields in reader.xrange("mqttkit:metrics")]
        assert process.stop() == 0
    assert sorted(values) == stored_numbers(database) == list(range(total))


def test_broken_output_does_not_end_the_other(tmp_path: Path) -> None:
    """A damaged file ends one output; the exit code tells, and the messages stay at the broker."""
    damaged, good = tmp_path / "damaged.db", tmp_path / "good.db"
    damaged.write_bytes(b"not a database" * 1_000)
    config = write_config(
        tmp_path / "c.yaml", f"sink: 'sqlite:{damaged}', name: damaged", f"sink: 'sqlite:{good}', name: good"
    )
    with (
        mosquitto(tmp_path / "mosquitto", QUEUE_WITHOUT_LIMIT) as broker,
        bridge(tmp_path / "b", broker.port, config=config, ready=False) as process,
        publisher(broker.port) as client,
    ):
        wait_until(lambda: process.not_ready_because("damaged: "))
        wait_until(lambda: of_output(process, "ready", "good") == 1)
        publish_numbers(client, range(100))
        wait_until(lambda: rows(good) == [(100,)])
        assert process.ask("/livez")[0] == 200
        assert process.stop() == 1
        assert "output damaged stopped" in process.log


def test_metrics_go_to_the_outputs_that_want_them(tmp_path: Path) -> None:
    """By name; what nobody wants and what is malformed is one dead letter in the first output."""
    hot, cold = tmp_path / "hot.jsonl", tmp_path / "cold.db"
    config = write_config(
        tmp_path / "c.yaml",
        f"sink: 'sqlite:{cold}', only_metrics: [battery, 'temp*']",
        f"sink: 'jsonl:{hot}', only_metrics: ['temp*'], only_tenants: [{TENANT}]",
    )
    with (
        mosquitto(tmp_path / "mosquitto", QUEUE_WITHOUT_LIMIT) as broker,
        bridge(tmp_path / "b", broker.port, config=config) as process,
        publisher(broker.port) as client,
    ):
        publish_named(client, ["temperature", "battery", "humidity"], body(1))
        publish_named(client, ["temperature"], b"[")
        wait_until(lambda: of_output(process, "acknowledged_messages_total", "sqlite") == 4)
        wait_until(lambda: of_output(process, "acknowledged_messages_total", "jsonl") == 2)
        assert rows(cold, "SELECT metric_name FROM metrics ORDER BY 1") == [("battery",), ("temperature",)]
        assert rows(cold, "SELECT reason FROM dead_letters ORDER BY 1") == [("json_syntax",), ("unrouted",)]
        assert [json.loads(line)["metric_name"] for line in hot.read_text().splitlines()] == ["temperature"]
        assert process.stop() == 0
        found = CliRunner().invoke(cli, ["bridge", "dead-letters", "list", "--config", config, "--sink", "jsonl"])
        assert [line.split("\t")[2] for line in found.stdout.splitlines()] == ["json_syntax"]
        found = CliRunner().invoke(cli, ["bridge", "dead-letters", "list", "--config", config])
        assert found.exit_code == 2
        assert "--sink sqlite" in found.output
