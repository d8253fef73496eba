"""Faults of the broker and of the way to it: rows 3 to 6, 18, 19 and 20 of the fault table."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import sqlite3
import time
from pathlib import Path

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from mqttkit.proxy.server import Proxy
from tests.support.bridges import (
    QUEUE_WITHOUT_LIMIT,
    body,
    bridge,
    metric_topic,
    publish_numbers,
    publisher,
    rows,
    stored_numbers,
    wait_until,
)
from tests.support.brokers import mosquitto
from tests.support.tls import Authority

pytestmark = pytest.mark.system


def persistent(directory: Path) -> tuple[str, ...]:
    """Lines of mosquitto.conf for a broker that keeps sessions over a restart."""
    return ("persistence true", f"persistence_location {directory}/", "autosave_interval 1", QUEUE_WITHOUT_LIMIT)


def test_fault_3_broker_stopped_and_started_again(tmp_path: Path) -> None:
    """SIGTERM to a broker that keeps its sessions: resumes within 10 s of its return, nothing lost."""
    store = tmp_path / "store"
    store.mkdir()
    with mosquitto(tmp_path / "mosquitto", *persistent(store)) as broker:
        with bridge(tmp_path / "bridge", broker.port) as process:
            with publisher(broker.port) as client:
                publish_numbers(client, range(3_000))
            broker.stop(signal.SIGTERM)
            wait_until(lambda: process.not_ready_because("not connected"))
            broker.start()
            began = time.monotonic()
            wait_until(process.is_ready, 10, "the bridge to resume")
            assert time.monotonic() - began < 10
            assert process.number("interruptions_total") == process.log.count("after an interruption") == 1
            assert process.number("lost_sessions_total") == 0
            with publisher(broker.port) as client:
                publish_numbers(client, range(3_000, 5_000))
            wait_until(lambda: rows(process.database) == [(5_000,)])
            process.finish()
        assert stored_numbers(process.database) == list(range(5_000))


def test_fault_4_broker_killed(tmp_path: Path) -> None:
    """SIGKILL to the broker: the bridge reconnects; every acknowledged metric is stored, the rest is counted.

    Mosquitto loses what it had not written down; nothing published after its return may be lost.
    """
    with mosquitto(tmp_path / "mosquitto", QUEUE_WITHOUT_LIMIT) as broker:
        with bridge(tmp_path / "bridge", broker.port) as process:
            with publisher(broker.port) as client:
                receipts = [client.publish(metric_topic(), body(n), qos=1, wait=20) for n in range(5_000)]
                wait_until(lambda: rows(process.database)[0][0] > 200)
                broker.stop(signal.SIGKILL)
                acknowledged = sum(receipt.outcome is not None for receipt in receipts)
            broker.start()
            wait_until(process.is_ready)
            with publisher(broker.port) as client:
                publish_numbers(client, range(10_000, 11_000))
            wait_until(lambda: sum(n >= 10_000 for n in stored_numbers(process.database)) == 1_000)
            wait_until(lambda: process.number("in_flight_messages") == 0)
            process.finish()
        stored = stored_numbers(process.database)
        assert len(stored) == len(set(stored))
        first = [number for number in stored if number < 5_000]
        print(f"the broker lost {acknowledged - len(first)} of {acknowledged}")
        assert first == list(range(len(first)))


def test_fault_5_session_lost(tmp_path: Path) -> None:
    """session_present = 0: subscribes again, and acknowledges nothing of the old connection on the new one."""
    with (
        mosquitto(tmp_path / "mosquitto", QUEUE_WITHOUT_LIMIT) as broker,
        bridge(tmp_path / "bridge", broker.port, environment={"MQTTKIT_MQTT_CLIENT_KEEP_ALIVE": "5"}) as process,
    ):
        with contextlib.closing(sqlite3.connect(process.database, isolation_level=None)) as lock:
            lock.execute("BEGIN EXCLUSIVE")
            with publisher(broker.port) as client:
                publish_numbers(client, range(20))
                wait_until(lambda: process.number("in_flight_messages") == 20)
            broker.stop(signal.SIGKILL)
            broker.start()
            wait_until(lambda: process.number("connects_total") == 2)
            wait_until(lambda: "metrics/# (QoS 1)" in broker.log.rpartition("mosquitto version 2")[2])
            with publisher(broker.port) as client:
                publish_numbers(client, range(20, 40))
                wait_until(lambda: process.number("in_flight_messages") == 40)
            lock.execute("ROLLBACK")
        wait_until(lambda: rows(process.database) == [(40,)])
        wait_until(lambda: process.acknowledged == 20)
        assert process.number("stale_acknowledgements_total") == 20
        assert process.number("lost_sessions_total") == process.log.count("the broker lost session") == 1
        second_run = broker.log.rpartition("mosquitto version 2")[2]
        acknowledged = re.findall(r"Received PUBACK from mqttkit-bridge\S+ \(Mid: (\d+)", second_run)
        assert [int(mid) for mid in acknowledged if int(mid) <= 20] == list(range(1, 21))
        process.finish()


def test_fault_6_half_open_connection(tmp_path: Path) -> None:
    """Packets vanish and no FIN comes: noticed within 1.5 keep-alives and 5 s, and connected again."""
    keep_alive = 4
    with (
        mosquitto(tmp_path / "mosquitto", QUEUE_WITHOUT_LIMIT) as broker,
        Proxy(("127.0.0.1", broker.port)) as proxy,
        bridge(tmp_path / "bridge", proxy.port, "-k", str(keep_alive)) as process,
    ):
        with publisher(broker.port) as client:
            publish_numbers(client, range(100))
            wait_until(lambda: rows(process.database) == [(100,)])
            proxy.silence()
            began = time.monotonic()
            publish_numbers(client, range(100, 200))
            wait_until(lambda: proxy.totals.connections == 2, 1.5 * keep_alive + 5, "a new connection")
            assert time.monotonic() - began < 1.5 * keep_alive + 5
            wait_until(lambda: rows(process.database) == [(200,)])
        process.finish()


def test_fault_18_right_to_read_revoked(tmp_path: Path) -> None:
    """Revoked in mid-session, which mosquitto tells nobody: not ready, one clear error; ready when it is back."""
    acl = tmp_path / "acl"
    canary = "topic write metrics/_mqttkit/#\n"
    allowed = "topic readwrite metrics/#\n"
    acl.write_text(allowed)
    acl.chmod(0o644)
    environment = {"MQTTKIT_BRIDGE_CHECK_INTERVAL": "0.5"}
    with (
        mosquitto(tmp_path / "mosquitto", f"acl_file {acl}") as broker,
        bridge(tmp_path / "bridge", broker.port, environment=environment) as process,
    ):
        acl.write_text(canary)
        broker.signal(signal.SIGHUP)
        wait_until(lambda: process.not_ready_because("the ACL may deny reading"))
        wait_until(lambda: "'metrics/#' denied" in process.log)
        acl.write_text(allowed)
        broker.signal(signal.SIGHUP)
        wait_until(process.is_ready)
        with publisher(broker.port) as client:
            publish_numbers(client, range(10))
        wait_until(lambda: rows(process.database) == [(10,)])
        assert process.log.count("'metrics/#' denied") == 1
        assert process.stop() == 0


def test_fault_18_subscription_denied_at_the_start(tmp_path: Path) -> None:
    """Without the right to read the bridge is never ready; with --no-retry it ends with exit code 5."""
    acl = tmp_path / "acl"
    acl.write_text("topic write metrics/_mqttkit/#\n")
    acl.chmod(0o644)
    with mosquitto(tmp_path / "mosquitto", f"acl_file {acl}") as broker:
        with bridge(tmp_path / "bridge", broker.port, "--no-retry", ready=False) as process:
            assert process.process is not None
            assert process.process.wait(60) == 5
            assert "the ACL may deny reading" in process.log
        with bridge(tmp_path / "other", broker.port, ready=False) as process:
            wait_until(lambda: process.not_ready_because("the ACL may deny reading"))


def test_fault_19_certificates(tmp_path: Path) -> None:
    """A certificate that ends soon is warned of; a broker's replaced authority is picked up; no tight loop between."""
    old, new = Authority(tmp_path, "old"), Authority(tmp_path, "new")
    trusted = tmp_path / "trusted.pem"
    shutil.copy(old.file, trusted)

    def serve(authority: Authority, name: str) -> None:
        signed = authority.sign(name, names=("127.0.0.1",))
        shutil.copy(signed.cert, tmp_path / "server.crt")
        shutil.copy(signed.key, tmp_path / "server.key")

    serve(old, "first")
    lines = (f"certfile {tmp_path / 'server.crt'}", f"keyfile {tmp_path / 'server.key'}", QUEUE_WITHOUT_LIMIT)
    settings = {"MQTTKIT_MQTT_RECONNECT_MAX_DELAY": "1"}
    with (
        mosquitto(tmp_path / "mosquitto", *lines) as broker,
        bridge(tmp_path / "bridge", broker.port, "--cafile", str(trusted), environment=settings) as process,
    ):
        wait_until(lambda: "certificate expires in 0 days" in process.log)
        broker.stop()
        serve(new, "second")
        broker.start()
        wait_until(lambda: process.not_ready_because("not trusted"))
        began, before = time.monotonic(), broker.log.count("New connection")
        wait_until(lambda: broker.log.count("New connection") >= before + 6, what="six more tries")
        assert time.monotonic() - began > 0.25
        draft = tmp_path / "draft.pem"
        shutil.copy(new.file, draft)
        os.replace(draft, trusted)
        wait_until(process.is_ready)
        assert "read the changed certificates again" in process.log
        assert process.stop() == 0


def test_fault_20_second_client_with_the_same_identifier(tmp_path: Path) -> None:
    """Both take the session from each other: the bridge names the identifier and ends with 4 after a few times."""
    with (
        mosquitto(tmp_path / "mosquitto") as broker,
        bridge(tmp_path / "bridge", broker.port, "-i", "twin") as process,
    ):
        other = paho.Client(CallbackAPIVersion.VERSION2, "twin")
        other.reconnect_delay_set(1, 1)
        other.connect("127.0.0.1", broker.port)
        other.loop_start()
        try:
            assert process.process is not None
            assert process.process.wait(60) == 4
        finally:
            other.disconnect()
            other.loop_stop()
        assert "client identifier 'twin'" in process.log
        assert broker.log.count("as twin") < 30
