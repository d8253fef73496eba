"""The bridge as a service: bounds, memory, service manager, users of a secured broker."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import sqlite3
import threading
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from mqttkit.cli import cli
from tests.support.bridges import (
    QUEUE_WITHOUT_LIMIT,
    body,
    bridge,
    bridged,
    metric_topic,
    publish_numbers,
    publisher,
    rows,
    wait_until,
)
from tests.support.brokers import mosquitto
from tests.support.redis import redis_server
from tests.support.scripted_broker import scripted_broker
from tests.system.bridge.test_faults_data import packet

pytestmark = pytest.mark.system


def test_broker_that_sends_more_than_it_may_is_cut_off(tmp_path: Path) -> None:
    """Receive Maximum is the broker's promise; one that breaks it meets the bridge's own bound, and no PUBACK."""
    flood = b"".join(packet(metric_topic().encode(), body(number), number + 1) for number in range(2_000))
    acknowledged = bytearray()
    second = threading.Event()

    def answer(connection: socket.socket, _connect: bytes) -> bool:
        connection.sendall(b"\x20\x03\x00\x00\x00")
        subscribe = connection.recv(4_096)
        connection.sendall(b"\x90\x04" + subscribe[2:4] + b"\x00\x01" + flood)
        if len(broker.connects) > 1:
            second.set()
            return True
        with contextlib.suppress(OSError):
            while data := connection.recv(65_536):
                acknowledged.extend(data)
        return False

    environment = {"MQTTKIT_MQTT_CLIENT_RECEIVE_MAXIMUM": "10", "MQTTKIT_BRIDGE_QUEUE_SIZE": "50"}
    with (
        scripted_broker(answer) as broker,
        bridge(tmp_path / "bridge", broker.port, ready=False, environment=environment) as process,
    ):
        assert second.wait(60)
        assert process.number("overflows_total") >= 1
        assert "are waiting): reconnecting" in process.log
        assert process.number("in_flight_messages") <= 50
        assert acknowledged.count(b"\x40\x02") <= 50


def test_flood_at_qos_0_is_held_back_not_dropped(tmp_path: Path) -> None:
    """While the sink is locked the bridge stops reading, stays connected, and stores all of it afterwards."""
    total = 20_000
    environment = {"MQTTKIT_BRIDGE_QUEUE_SIZE": "20000"}
    with (
        mosquitto(tmp_path / "mosquitto", QUEUE_WITHOUT_LIMIT, "max_queued_bytes 0") as broker,
        bridge(tmp_path / "bridge", broker.port, "-k", "2", environment=environment) as process,
        publisher(broker.port) as client,
        contextlib.closing(sqlite3.connect(process.database, isolation_level=None)) as lock,
    ):
        lock.execute("BEGIN EXCLUSIVE")
        for number in range(total):
            client.publish(metric_topic(), body(number), qos=0, wait=20)
        wait_until(lambda: process.number("in_flight_messages") >= 8_000)
        ping = "Received PINGREQ from mqttkit-bridge"
        before = broker.log.count(ping)
        wait_until(lambda: broker.log.count(ping) > before, what="a keep-alive")
        held = process.number("in_flight_messages")
        wait_until(lambda: broker.log.count(ping) > before + 1, what="another one, with nothing read since")
        assert process.number("in_flight_messages") == held < total
        assert process.number("connects_total") == 1
        lock.execute("ROLLBACK")
        wait_until(lambda: rows(process.database) == [(total,)])
        assert process.number("lost_qos0_messages_total") == 0
        process.finish()


def test_memory_at_its_limit_ends_in_an_orderly_restart(tmp_path: Path) -> None:
    """memory.warn is a line in the log; at memory.max the bridge drains and ends with 75."""
    environment = {"MQTTKIT_BRIDGE_MEMORY_WARN": "1000000", "MQTTKIT_BRIDGE_MEMORY_MAX": "2000000"}
    with bridged(tmp_path, environment=environment) as (_, process, client):
        publish_numbers(client, range(50))
        assert process.process is not None
        assert process.process.wait(60) == 75
        assert "memory.warn" in process.log
        assert "memory.max" in process.log
        assert process.check_books()[1] == 50


def test_service_manager_hears_of_it(tmp_path: Path) -> None:
    """READY when the subscription is granted, WATCHDOG while both loops turn, STOPPING at SIGTERM."""
    address = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager, mosquitto(tmp_path / "mosquitto") as broker:
        manager.bind(str(address))
        manager.settimeout(15)
        with bridge(tmp_path / "bridge", broker.port, environment={"NOTIFY_SOCKET": str(address)}) as process:
            heard: list[bytes] = []
            while sum(state == b"WATCHDOG=1" for state in heard) < 3:
                heard.append(manager.recv(1_000))
            assert any(state.startswith(b"READY=1\nSTATUS=received=0") for state in heard)
            assert process.stop() == 0
        manager.settimeout(0.5)
        with contextlib.suppress(TimeoutError):
            while True:
                heard.append(manager.recv(1_000))
        assert b"STOPPING=1" in heard


def test_sigterm_with_a_sink_that_hangs_leaves_the_rest_to_the_broker(tmp_path: Path) -> None:
    """It ends within 10 s with exit code 1, saying how many; the next run stores them."""
    patience = {"MQTTKIT_BRIDGE_DRAIN_TIMEOUT": "2", "MQTTKIT_BRIDGE_SINK_TIMEOUT": "4"}
    with (
        redis_server(tmp_path / "redis") as redis,
        bridged(tmp_path, sink=redis.url, environment=patience) as (_, process, client),
    ):
        redis.send(signal.SIGSTOP)
        publish_numbers(client, range(700))
        wait_until(lambda: process.number("in_flight_messages") == 700)
        began = time.monotonic()
        assert process.stop() == 1
        assert time.monotonic() - began < 10
        assert "700 messages were not committed" in process.log
        redis.send(signal.SIGCONT)
        process.start()
        with redis.client() as reader:
            wait_until(lambda: reader.xlen("mqttkit:metrics") == 700)
        process.finish()


def test_user_of_role_bridge_can_run_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The roles bridge and metrics-device have the rights for metrics; a device may not speak for another agent."""
    monkeypatch.chdir(tmp_path)
    runner = CliRunner()
    started = runner.invoke(cli, ["broker", "up", "--backend", "process", "--port", "0", "--json"])
    assert started.exit_code == 0, started.output
    port = json.loads(started.stdout)["port"]
    try:
        for name, role in (("ingest", "bridge"), ("agent-1", "metrics-device")):
            added = runner.invoke(cli, ["broker", "user", "add", name, "--role", role, "--generate"])
            assert added.exit_code == 0, added.output
            (tmp_path / name).write_text(added.stdout)
            (tmp_path / name).chmod(0o600)
        words = ("--username", "ingest", "--password-file", str(tmp_path / "ingest"))
        with bridge(tmp_path / "bridge", port, *words) as process:
            login = ["-u", "agent-1", "--password-file", str(tmp_path / "agent-1")]
            words = ["pub", "-h", "127.0.0.1", "-p", str(port), *login, "-q", "1", "-m", '{"value": 5}', "-t"]
            assert runner.invoke(cli, [*words, metric_topic(agent="agent-2")]).exit_code != 0
            done = runner.invoke(cli, [*words, metric_topic()])
            assert done.exit_code == 0, done.output
            wait_until(lambda: rows(process.database, "SELECT agent_id, value FROM metrics") == [("agent-1", 5.0)])
            assert process.stop() == 0
    finally:
        runner.invoke(cli, ["broker", "down"])
