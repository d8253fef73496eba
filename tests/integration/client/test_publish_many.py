"""`publish_many` and the publisher's blocks against a real broker and one that hangs up."""

from __future__ import annotations

import socket
import threading
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from mqttkit.client import MqttClient
from mqttkit.client.receiving.splitter import packet_end
from mqttkit.errors import PublishDenied, PublishFailed, TopicError
from mqttkit.messages import Message, Outcome
from mqttkit.publisher import Publisher
from mqttkit.testing.broker import TestBroker
from tests.support.brokers import mosquitto, need
from tests.support.clients import settings_for, wait_until
from tests.support.scripted_broker import scripted_broker

COUNT = 5_000


@pytest.mark.parametrize("qos", [0, 1, 2])
@pytest.mark.parametrize("version", ["5", "311"])
def test_every_payload_arrives_once_and_in_order(shared_broker: TestBroker, qos: int, version: str) -> None:
    """Also more than the queue holds; text is sent as UTF-8; an empty list is done immediately."""
    count = COUNT if qos < 2 else 200
    settings = settings_for(shared_broker.port, version=version, max_queued_messages=1_000)
    with MqttClient(settings) as client:
        client.connect(timeout=60)
        topic = f"many/{uuid.uuid4().hex}"
        client.subscribe(topic, qos=qos)
        receipt = client.publish_many(topic, [*(b"%d" % n for n in range(count)), "°C"], qos=qos, wait=60)
        assert receipt.result(60) is (Outcome.ACKNOWLEDGED if qos else Outcome.SENT)
        found = []
        for message in client.messages(timeout=60):
            found.append(message.payload)
            if len(found) == count + 1:
                break
        assert found == [*(b"%d" % n for n in range(count)), "°C".encode()]
        assert client.publish_many(topic, []).ok


def test_a_denied_topic_is_denied_for_every_message(tmp_path: Path) -> None:
    """MQTT 5 at QoS 1; the publisher raises, and says how many were delivered before."""
    need("mosquitto")
    acl = tmp_path / "acl"
    acl.write_text("topic readwrite open/#\n")
    with mosquitto(tmp_path / "broker", f"acl_file {acl}") as broker, MqttClient(settings_for(broker.port)) as client:
        client.connect(timeout=60)
        receipt = client.publish_many("shut/t", [b"x"] * 100, qos=1)
        with pytest.raises(PublishDenied, match="message 1 of 100: not authorized"):
            receipt.result(60)
        receipt.wait(60)
        assert receipt.outcomes == [Outcome.DENIED] * 100
        publisher = Publisher(client)
        publisher.send_block(Message("open/t", qos=1), [b"x"] * 10)
        assert client.flush(60)
        with pytest.raises(PublishDenied) as caught:
            for _ in range(2):
                publisher.send_block(Message("shut/t", qos=1), [b"x"] * 10)
                client.flush(60)
        assert caught.value.hint == "10 earlier messages were delivered"


def test_without_a_connection_every_message_is_dropped() -> None:
    """The receipt says it; a wrong topic or payload raises instead."""
    client = MqttClient(settings_for(1))
    receipt = client.publish_many("t", [b"x"] * 3)
    assert receipt.outcomes == [Outcome.DROPPED] * 3
    assert {failure.reason for failure in receipt.failures} == {"not connected"}
    with pytest.raises(TopicError):
        client.publish_many("a/#", [b"x"])
    with pytest.raises(TypeError):
        client.publish_many("t", [1])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="QoS"):
        client.publish_many("t", [b"x"], qos=3)


CONNACK = b"\x20\x03\x00\x00\x00"


def hang_up_once(connections: list[int]) -> Callable[[socket.socket, bytes], bool]:
    """Return a script: the first connection ends after a few bytes; the second acknowledges every publish."""

    def script(connection: socket.socket, _connect: bytes) -> bool:
        connections.append(0)
        connection.sendall(CONNACK)
        data = connection.recv(100)
        while len(connections) > 1 and (chunk := connection.recv(65_536)):
            data += chunk
            position, answers = 0, b""
            while position < len(data) and (stop := packet_end(data, position)) <= len(data):
                answers += b"@\2" + data[position + 5 : position + 7] if data[position] == 0x32 else b""
                connections[-1] += data[position] == 0x32
                position = stop
            data = data[position:]
            connection.sendall(answers)
        return False

    return script


def test_a_block_goes_on_after_a_lost_connection() -> None:
    """What was in flight or queued is lost and counted; the rest waits for the next connection."""
    connections: list[int] = []
    with scripted_broker(hang_up_once(connections)) as server:
        settings = settings_for(server.port, version="5", max_queued_messages=100)
        with MqttClient(settings) as client:
            client.connect(timeout=60)
            publisher = Publisher(client)
            publisher.send_block(Message("t", qos=1), [b"%05d" % number for number in range(2_000)])
            with pytest.raises(PublishFailed, match=r"of 2000 messages not delivered"):
                publisher.finish(60)
            assert publisher.delivered + publisher.failed == 2_000
            assert 1 <= publisher.failed <= 100
            assert connections == [0, publisher.delivered]


def test_closing_releases_a_block_that_waits_for_room() -> None:
    """Every message then has an outcome."""

    def never_reads(connection: socket.socket, _connect: bytes) -> bool:
        connection.sendall(CONNACK)
        return True

    with scripted_broker(never_reads) as server:
        client = MqttClient(settings_for(server.port, version="5", max_queued_messages=10))
        client.connect(timeout=60)
        found = []
        thread = threading.Thread(target=lambda: found.append(client.publish_many("t", [b"x"] * 50, qos=1, wait=600)))
        thread.start()
        wait_until(lambda: client.unresolved > 0)
        client.close(flush=0)
        thread.join(60)
        assert found[0].done
        assert set(found[0].outcomes) <= {Outcome.LOST, Outcome.DROPPED}
