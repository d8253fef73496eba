"""Faults in what is published, and of the clock: rows 11 to 17 and 21 of the fault table."""

from __future__ import annotations

import hashlib
import os
import socket
import struct
import time
from pathlib import Path

import pytest

from mqttkit.bridge.metric import MetricParser
from mqttkit.bridge.observe.resource_watch import resident_bytes
from mqttkit.settings import BridgeSettings
from tests.support.bridges import (
    QUEUE_WITHOUT_LIMIT,
    TENANT,
    body,
    bridge,
    bridged,
    metric_topic,
    new_tenant,
    publish_numbers,
    publisher,
    rows,
    wait_until,
)
from tests.support.brokers import mosquitto, need
from tests.support.scripted_broker import scripted_broker

pytestmark = pytest.mark.system


@pytest.mark.parametrize("hours", [1, -1])
def test_fault_11_clock_an_hour_off(tmp_path: Path, hours: int) -> None:
    """The bridge's clock jumps by an hour: timers go on, and both the jump and the skew are reported."""
    library = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None) if need("faketime") else None
    assert library is not None
    clock = tmp_path / "clock"
    clock.write_text("+0")
    environment = {
        "LD_PRELOAD": str(library),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "MQTTKIT_BRIDGE_STATS_INTERVAL": "1",
    }
    with bridged(tmp_path, environment=environment) as (_, process, client):
        publish_numbers(client, range(10))
        wait_until(lambda: rows(process.database) == [(10,)])
        clock.write_text(f"{hours * 3600:+d}")
        for number in range(10, 20):
            client.publish(metric_topic(), body(number, timestamp=time.time()), qos=1, wait=5)
        wait_until(lambda: rows(process.database) == [(20,)], 10)
        wait_until(lambda: f"jumped by {hours * 3600:+d} s" in process.log)
        way = "behind" if hours > 0 else "ahead of"
        wait_until(lambda: f"3600 s {way} this machine's clock" in process.log)
        assert process.is_ready()
        stamps = rows(process.database, "SELECT max(timestamp_ms), min(timestamp_ms) FROM metrics WHERE value > 9")
        assert abs(stamps[0][0] / 1000 - time.time()) < 60
        process.finish()


POISON = {
    "value_not_finite": [b'{"value":NaN}', b'{"value":1e999}', b'{"value":-Infinity}'],
    "json_depth": [b"[" * 10_000 + b"]" * 10_000, b'{"value":1,"x":' + b"[" * 10_000 + b"]" * 10_000 + b"}"],
    "duplicate_key": [b'{"value":1,"value":2}'],
    "value_type": [b'{"value":true}', b'{"value":"1"}'],
    "json_syntax": [b"{", b"value=1"],
    "json_encoding": [b'{"value":1,"dedupe_id":"\xc3\x28"}'],
}


def test_fault_12_poison_json(tmp_path: Path) -> None:
    """Each poison becomes a dead letter with its reason, and the metrics after it are stored."""
    with bridged(tmp_path) as (_, process, client):
        number = 0
        for payloads in POISON.values():
            for payload in payloads:
                client.publish(metric_topic(), payload, qos=1, wait=5)
                client.publish(metric_topic(), body(number), qos=1, wait=5)
                number += 1
        wait_until(lambda: rows(process.database) == [(number,)])
        found = dict(rows(process.database, "SELECT reason, count(*) FROM dead_letters GROUP BY reason"))
        assert found == {reason: len(payloads) for reason, payloads in POISON.items()}
        assert process.finish()[1:4] == (number, 0, number)


def packet(topic: bytes, payload: bytes, mid: int) -> bytes:
    """A PUBLISH at QoS 1 of MQTT 5, however wrong its topic."""
    rest = struct.pack(">H", len(topic)) + topic + struct.pack(">H", mid) + b"\0" + payload
    length, size = b"", len(rest)
    while True:
        size, digit = divmod(size, 128)
        length += bytes([digit | (0x80 if size else 0)])
        if not size:
            return b"\x32" + length + rest


def test_fault_13_topics_that_no_broker_should_deliver(tmp_path: Path) -> None:
    """65,535 bytes, invalid UTF-8, NUL, an empty level: dead letters, and the network thread lives."""
    topics = [
        b"metrics/" + b"x" * 65_527,
        b"metrics/" + TENANT.encode() + b"/a\xff\xfe/t",
        b"metrics/" + TENANT.encode() + b"/a\0b/t",
        b"metrics//x",
        b"metrics/\xed\xa0\x80/a/t",
    ]
    good = metric_topic().encode()

    def answer(connection: socket.socket, _connect: bytes) -> bool:
        """CONNACK, then wait for SUBSCRIBE, SUBACK, and what no real broker sends."""
        connection.sendall(b"\x20\x03\x00\x00\x00")
        subscribe = connection.recv(4_096)
        connection.sendall(b"\x90\x04" + subscribe[2:4] + b"\x00\x01")
        for mid, topic in enumerate([*topics, good], 1):
            connection.sendall(packet(topic, b'{"value":1}', mid))
        return True

    with scripted_broker(answer) as broker, bridge(tmp_path / "bridge", broker.port, ready=False) as process:
        wait_until(lambda: rows(process.database) == [(1,)])
        wait_until(lambda: process.acknowledged == len(topics) + 1)
        found = [reason for (reason,) in rows(process.database, "SELECT reason FROM dead_letters ORDER BY id")]
        assert found == ["topic_shape", "topic_encoding", "topic_encoding", "topic_shape", "topic_encoding"]
        assert process.ask("/livez")[0] == 200
        assert len(broker.connects) == 1


def test_fault_13_empty_level_through_a_real_broker(tmp_path: Path) -> None:
    """What mosquitto does deliver: empty levels and the longest topic it takes."""
    with bridged(tmp_path) as (_, process, client):
        for topic in ("metrics//x", "metrics/", "metrics", "metrics/" + "x" * 60_000):
            client.publish(topic, b'{"value":1}', qos=1, wait=5)
        publish_numbers(client, range(1))
        wait_until(lambda: rows(process.database) == [(1,)])
        assert rows(process.database, "SELECT DISTINCT reason, count(*) FROM dead_letters") == [("topic_shape", 4)]
        process.finish()


def test_fault_14_payload_above_the_limit(tmp_path: Path) -> None:
    """A dead letter with the whole payload's size and SHA-256, and its beginning."""
    payload = os.urandom(300_000)
    with bridged(tmp_path) as (_, process, client):
        client.publish(metric_topic(), payload, qos=1, wait=5)
        wait_until(lambda: rows(process.database, "SELECT count(*) FROM dead_letters") == [(1,)])
        query = "SELECT reason, size, sha256, length(payload) FROM dead_letters"
        ((reason, size, digest, kept),) = rows(process.database, query)
        assert (reason, size, digest) == ("payload_too_large", 300_000, hashlib.sha256(payload).hexdigest())
        assert kept < 100_000
        process.finish()


def test_fault_15_one_dedupe_id_a_hundred_thousand_times(tmp_path: Path) -> None:
    """One row, all others counted as duplicates, memory bounded."""
    total = 100_000
    with bridged(tmp_path) as (_, process, client):
        for _ in range(total):
            client.publish(metric_topic(), b'{"value":1,"dedupe_id":"same"}', qos=1, wait=30)
        assert client.flush(50)
        wait_until(lambda: process.number("duplicate_metrics_total") == total - 1)
        assert rows(process.database) == [(1,)]
        assert process.process is not None
        status = Path(f"/proc/{process.process.pid}/status").read_text()
        peak = int(status.split("VmHWM:")[1].split()[0])
        assert peak < 100_000
        process.finish()


def test_fault_16_flood_of_retained_messages(tmp_path: Path) -> None:
    """Retained metrics come with the subscription, and are not stored again when the session was lost."""
    total = 500
    with (
        mosquitto(tmp_path / "mosquitto", QUEUE_WITHOUT_LIMIT, f"persistence_location {tmp_path}/") as broker,
        publisher(broker.port) as client,
    ):
        for number in range(total):
            payload = b'{"value":%d}' % number if number % 2 else body(number)
            client.publish(metric_topic(agent=f"a{number}"), payload, qos=1, retain=True, wait=20)
        assert client.flush(20)
        with bridge(tmp_path / "bridge", broker.port) as process:
            wait_until(lambda: rows(process.database) == [(total,)])
            process.stop()
            process.start()
            publish_numbers(client, range(5_000, 5_010))
            wait_until(lambda: rows(process.database) == [(total + 10,)])
            assert process.number("duplicate_metrics_total") == 0
            process.stop()
            for state in (tmp_path / "bridge" / "state").rglob("client-id-*"):
                state.unlink()
            process.start()
            wait_until(lambda: process.number("duplicate_metrics_total") == total)
            assert rows(process.database) == [(total + 10,)]
            process.finish()


def test_fault_16_retained_metrics_that_came_live(tmp_path: Path) -> None:
    """Metrics without dedupe_id that arrived live are not stored again by a later session; equal live ones are."""
    with bridged(tmp_path) as (_, process, client):
        for number in (0, *range(100)):
            client.publish(metric_topic(agent=f"a{number}"), b'{"value":5}', qos=1, retain=True, wait=20)
        wait_until(lambda: rows(process.database) == [(101,)])
        process.stop()
        for state in (tmp_path / "bridge" / "state").rglob("client-id-*"):
            state.unlink()
        process.start()
        wait_until(lambda: process.number("duplicate_metrics_total") == 100)
        assert rows(process.database) == [(101,)]
        process.finish()


def test_fault_17_a_million_topics() -> None:
    """Parsing a million different topics takes bounded memory."""
    parser = MetricParser(BridgeSettings.topic, payload_limit=1_000)
    before = resident_bytes()
    for number in range(1_000_000):
        parser.parse(f"metrics/{TENANT}/agent-{number}/t", b'{"value":1}', 1)
    assert resident_bytes() - before < 20_000_000


def test_fault_17_topics_and_tenants_are_no_labels(tmp_path: Path) -> None:
    """The page for Prometheus is as long after many topics and tenants as before."""
    with bridged(tmp_path) as (_, process, client):
        client.publish(metric_topic(new_tenant()), body(0), qos=1, wait=5)
        wait_until(lambda: process.number('dead_letters_total{reason="tenant_unknown"}') == 1)
        before = len(process.ask("/metrics")[1].splitlines())
        for number in range(500):
            client.publish(metric_topic(agent=f"a{number}"), body(number), qos=1, wait=5)
            client.publish(metric_topic(new_tenant(), f"a{number}"), body(number), qos=1, wait=5)
        wait_until(lambda: rows(process.database) == [(500,)])
        page = process.ask("/metrics")[1]
        assert len(page.splitlines()) == before
        assert TENANT not in page
        process.finish()
