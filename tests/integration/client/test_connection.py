"""The batched socket against real brokers and scripted ones: load, limits, TLS, WebSockets, slow ends."""

from __future__ import annotations

import gc
import os
import queue
import resource
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from mqttkit.client import MqttClient
from mqttkit.client.receiving.splitter import remaining_length
from mqttkit.messages import Message, Outcome, Subscription
from mqttkit.settings import MqttSettings, TlsSettings
from mqttkit.testing.broker import TestBroker
from tests.support.brokers import Mosquitto, free_port, mosquitto, wait_for_port
from tests.support.clients import settings_for, wait_until
from tests.support.scripted_broker import scripted_broker

CONNACK = b"\x20\x03\x00\x00\x00"


class Collector:
    """Collects messages in lists, in order."""

    def __init__(self) -> None:
        self.messages: list[Message] = []

    def __call__(self, messages: list[Message]) -> None:
        self.messages += messages


def packets(data: bytes) -> list[bytes]:
    """Split whole packets."""
    found, position = [], 0
    while position < len(data):
        start, size = remaining_length(data, position)
        found.append(data[position : start + size])
        position = start + size
    return found


def read_packets(connection: socket.socket, count: int) -> list[bytes]:
    """Read until `count` whole packets came."""
    data = b""
    while True:
        try:
            found = packets(data)
        except IndexError:
            found = []
        if len(found) >= count and sum(map(len, found)) == len(data):
            return found
        chunk = connection.recv(65_536)
        assert chunk, "the client closed"
        data += chunk


@pytest.mark.parametrize("qos", [0, 1, 2])
def test_numbered_messages_of_several_threads_arrive_once_and_in_order(
    shared_broker: TestBroker, topic: str, qos: int
) -> None:
    """Each thread's messages keep its order through queue, window, broker and back."""
    got, count, threads = Collector(), 400 if qos == 2 else 1_500, 3
    settings = settings_for(shared_broker.port, max_inflight=20)
    with MqttClient(settings, on_messages=got) as reader, MqttClient(settings) as writer:
        reader.connect(timeout=60)
        reader.subscribe(Subscription(f"{topic}/#", qos=qos))
        writer.connect(timeout=60)

        sent = [0] * threads

        def publish(name: int) -> None:
            for number in range(count):
                writer.publish(f"{topic}/{name}", b"%d" % number, qos=qos, wait=60)
                if number % 300 == 299:
                    sent[name] = number + 1
                    wait_until(lambda: len(got.messages) >= sum(sent))  # the broker's queue to the reader holds 1,000

        workers = [threading.Thread(target=publish, args=(name,)) for name in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(60)
        assert writer.flush(60)
        wait_until(lambda: len(got.messages) >= count * threads)
    for name in range(threads):
        mine = [int(m.payload) for m in got.messages if m.topic == f"{topic}/{name}"]
        assert mine == list(range(count))


@pytest.mark.parametrize("direction", ["out", "in"])
def test_keep_alive_holds_under_one_way_load(broker: Mosquitto, topic: str, direction: str) -> None:
    """Two keep-alives of load in one direction only: no disconnect, and pings are answered."""
    settings = settings_for(broker.port, keep_alive=2)
    with MqttClient(settings) as near, MqttClient(settings_for(broker.port)) as far:
        near.connect(timeout=60)
        far.connect(timeout=60)
        if direction == "in":
            near.subscribe(Subscription(topic))
        writer = far if direction == "in" else near
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            writer.publish(topic, b"x" * 100, wait=1)
            time.sleep(0.002)
        assert near.connected
        assert near.stats.disconnects == 0


def test_a_packet_that_takes_longer_than_the_keep_alive_is_a_sign_of_life() -> None:
    """PINGRESP cannot overtake a large packet: bytes that flow are enough."""
    payload = bytes(200_000)
    packet = b"\x30" + b"\xc4\x9a\x0c" + b"\x00\x01t\x00" + payload

    def answer(connection: socket.socket, _connect: bytes) -> bool:
        connection.sendall(CONNACK)
        for start in range(0, len(packet), 5_000):
            connection.sendall(packet[start : start + 5_000])
            time.sleep(0.12)
        return True

    got = Collector()
    with scripted_broker(answer) as server, MqttClient(settings_for(server.port, keep_alive=2), on_messages=got) as c:
        c.connect(timeout=60)
        wait_until(lambda: got.messages or not c.connected)
        assert [message.payload for message in got.messages] == [payload]
        assert c.stats.disconnects == 0


def test_receive_maximum_of_the_broker_is_respected() -> None:
    """No more QoS 1 publishes under way than the CONNACK allows; each acknowledgement lets one more go."""
    seen: queue.Queue[list[bytes]] = queue.Queue()

    def answer(connection: socket.socket, _connect: bytes) -> bool:
        connection.sendall(b"\x20\x06\x00\x00\x03\x21\x00\x03")
        first = read_packets(connection, 3)
        connection.settimeout(0.3)
        with pytest.raises(TimeoutError):
            connection.recv(1)
        seen.put(first)
        connection.settimeout(60)
        mid = first[0][4 + 1 : 4 + 3]
        connection.sendall(b"\x40\x02" + mid)
        seen.put(read_packets(connection, 1))
        return True

    with scripted_broker(answer) as server, MqttClient(settings_for(server.port)) as client:
        client.connect(timeout=60)
        for number in range(5):
            client.publish("t", b"%d" % number, qos=1)
        assert [packet[-1:] for packet in seen.get(timeout=60)] == [b"0", b"1", b"2"]
        assert [packet[-1:] for packet in seen.get(timeout=60)] == [b"3"]
        client.close(flush=0)


def test_a_slow_handler_stops_the_reading() -> None:
    """While the handler is busy the broker's sending stalls; afterwards everything arrives."""
    message = b"\x30" + b"\x84\x80\x01" + b"\x00\x01t\x00" + bytes(16_384)
    total, sent, stalled = 4_000, [0], threading.Event()

    def answer(connection: socket.socket, _connect: bytes) -> bool:
        connection.sendall(CONNACK)
        connection.settimeout(0.5)
        rest = memoryview(message * total)
        while rest:
            try:
                taken = connection.send(rest)
            except TimeoutError:
                stalled.set()
                continue
            rest = rest[taken:]
            sent[0] += taken
        return True

    release, count = threading.Event(), [0]

    def handler(messages: list[Message]) -> None:
        release.wait(60)
        count[0] += len(messages)

    with scripted_broker(answer) as server, MqttClient(settings_for(server.port), on_messages=handler) as client:
        client.connect(timeout=60)
        assert stalled.wait(60)
        assert sent[0] < len(message) * total // 2
        release.set()
        wait_until(lambda: count[0] == total)


def test_reading_can_be_paused_without_losing_the_connection(broker: Mosquitto, topic: str) -> None:
    """Paused, nothing is delivered and pings go on; resumed, everything comes."""
    got = Collector()
    with MqttClient(settings_for(broker.port, keep_alive=2), on_messages=got) as client:
        client.connect(timeout=60)
        client.subscribe(Subscription(topic))
        client.pause_reading(True)
        for number in range(50):
            client.publish(topic, b"%d" % number)
        ping = f"Received PINGREQ from {client.client_id}"
        wait_until(lambda: broker.log.count(ping) >= 2)
        assert broker.log.count(f"Sending PUBLISH to {client.client_id}") == 50
        assert client.connected
        assert got.messages == []
        client.pause_reading(False)
        wait_until(lambda: len(got.messages) == 50)
        assert client.stats.disconnects == 0


def test_a_slow_reader_gets_every_byte_in_order() -> None:
    """Partial sends: batches and large packets of two threads through a small window."""
    received, finished, go = bytearray(), threading.Event(), threading.Event()
    expected = 2 * 150

    def answer(connection: socket.socket, _connect: bytes) -> bool:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        connection.sendall(CONNACK)
        go.wait(60)
        while b"the end" not in received[-30:]:
            received.extend(connection.recv(100_000))
        finished.set()
        return True

    with scripted_broker(answer) as server, MqttClient(settings_for(server.port)) as client:
        client.connect(timeout=60)

        def publish(name: bytes) -> None:
            for number in range(150):
                client.publish("t", name + b"%05d" % number + name * (3_000_000 if number % 50 == 0 else 100), wait=60)

        threads = [threading.Thread(target=publish, args=(name,)) for name in (b"a", b"b")]
        for thread in threads:
            thread.start()
        wait_until(lambda: client.unresolved >= 100)
        go.set()
        for thread in threads:
            thread.join(60)
        client.publish("t", b"the end")
        assert finished.wait(60)
    bodies = [packet[packet.index(b"\x00\x01t\x00") + 4 :] for packet in packets(bytes(received))][:expected]
    for name in (b"a", b"b"):
        mine = [body for body in bodies if body[:1] == name]
        assert [int(body[1:6]) for body in mine] == list(range(150))
        assert all(set(body[6:]) == set(name) for body in mine)


def test_large_packets_both_ways(broker: Mosquitto, topic: str) -> None:
    """Forty MiB through a real broker and back, not one byte changed."""
    payload = os.urandom(1 << 20) * 40
    got = Collector()
    settings = settings_for(broker.port, max_queued_bytes=1 << 28)
    with MqttClient(settings, on_messages=got) as client:
        client.connect(timeout=60)
        client.subscribe(Subscription(topic, qos=2))
        for qos in (0, 2):
            assert client.publish(topic, payload, qos=qos).wait(60) in (Outcome.SENT, Outcome.ACKNOWLEDGED)
            wait_until(lambda: got.messages)
            assert got.messages.pop().payload == payload


def test_file_descriptors_beyond_1024(shared_broker: TestBroker, topic: str) -> None:
    """A process with more than 1,024 open files can still connect: poll has no such limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4_096, hard), hard))
    gc.collect()  # so that no file of another test is closed meanwhile, and its low number free
    try:
        with ExitStack() as stack:
            for _ in range(1_100):
                stack.enter_context(Path(os.devnull).open("rb"))
            got = Collector()
            client = stack.enter_context(MqttClient(settings_for(shared_broker.port), on_messages=got))
            client.connect(timeout=60)
            assert client._connection.socket().fileno() > 1_024
            client.subscribe(Subscription(topic))
            client.publish(topic, b"x")
            wait_until(lambda: got.messages)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def make_certificate(directory: Path) -> tuple[Path, Path]:
    """Write a self-signed certificate for 127.0.0.1 and its key."""
    import subprocess

    certificate, key = directory / "cert.pem", directory / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=127.0.0.1"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    return certificate, key


@pytest.fixture(params=["tls", "websockets", "tls websockets"])
def wrapped(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MqttSettings]:
    """Settings for a broker behind TLS, WebSockets or both."""
    port, lines = free_port(), []
    fields: dict[str, object] = {}
    if "tls" in request.param:
        certificate, key = make_certificate(tmp_path)
        lines += [f"certfile {certificate}", f"keyfile {key}"]
        fields["tls"] = TlsSettings(ca_file=str(certificate))
    if "websockets" in request.param:
        lines.append("protocol websockets")
        fields["transport"] = "websockets"
    with mosquitto(tmp_path / "m", f"listener {port} 127.0.0.1", *lines):
        wait_for_port(port)
        yield settings_for(port, **fields)


def test_tls_and_websockets_carry_batches_and_large_packets(wrapped: MqttSettings, topic: str) -> None:
    """Bytes pending inside the TLS object, frames cut anywhere: every message arrives, in order, unchanged."""
    # mosquitto 2.0.11 never sends the rest of a WebSocket frame above about 100 kB.
    got, large = Collector(), os.urandom(60_000 if wrapped.broker.transport == "websockets" else 3_000_000)
    with MqttClient(wrapped, on_messages=got) as client:
        client.connect(timeout=60)
        client.subscribe(Subscription(f"{topic}/#", qos=1))
        receipts = [
            client.publish(f"{topic}/n", b"%d" % number + bytes(200), qos=0, wait=60) for number in range(3_000)
        ]
        receipts.append(client.publish(f"{topic}/large", large, qos=1, wait=60))
        receipts += [client.publish(f"{topic}/n", b"%d" % number, qos=1, wait=60) for number in range(3_000, 3_500)]
        assert client.flush(60)
        wait_until(lambda: len(got.messages) >= 3_501)
    assert {receipt.outcome for receipt in receipts} == {Outcome.SENT, Outcome.ACKNOWLEDGED}
    numbers = [int(m.payload.rstrip(b"\0")) for m in got.messages if m.topic.endswith("/n") and m.qos == 0]
    assert numbers == list(range(3_000))
    assert [m.payload for m in got.messages if m.topic.endswith("/large")] == [large]
