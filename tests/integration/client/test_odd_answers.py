"""Answers that no specification allows, from a scripted broker: the outcome is told, and the thread lives."""

from __future__ import annotations

import socket
from collections.abc import Callable

import pytest

from mqttkit.client import MqttClient
from mqttkit.errors import BrokerUnreachable, ConnectionRefused, PublishDenied
from tests.support.clients import settings_for
from tests.support.scripted_broker import scripted_broker

CONNACK_5, CONNACK_311 = b"\x20\x03\x00\x00\x00", b"\x20\x02\x00\x00"


def answering(connack: bytes, answer: Callable[[bytes], bytes]) -> Callable[[socket.socket, bytes], bool]:
    """Return a script: accept with `connack`, then answer one packet by its packet identifier."""

    def script(connection: socket.socket, _connect: bytes) -> bool:
        connection.sendall(connack)
        packet = connection.recv(4096)
        if packet:
            start = 2 if packet[0] & 0xF0 == 0x80 else 4 + int.from_bytes(packet[2:4], "big")
            connection.sendall(answer(packet[start : start + 2]))
        return True

    return script


@pytest.mark.parametrize(
    ("version", "connack", "code"),
    [("5", b"\x20\x03\x00\x99\x00", 0x99), ("5", b"\x20\x03\x00\xff\x00", 0xFF), ("311", b"\x20\x02\x00\x07", 7)],
)
def test_an_unknown_code_in_connack_is_a_refusal(version: str, connack: bytes, code: int) -> None:
    """The error names the code and ends with exit code 4."""
    with (
        scripted_broker(lambda connection, _connect: connection.sendall(connack) is None) as server,
        MqttClient(settings_for(server.port, version=version)) as client,
        pytest.raises(ConnectionRefused, match=f"refused the connection: reason code 0x{code:02x}") as caught,
    ):
        client.connect(timeout=10)
    assert (caught.value.code, caught.value.exit_code) == (code, 4)


@pytest.mark.parametrize("code", [0x92, 0x9B, 0xB9, 0xC0, 0xFF])
@pytest.mark.parametrize(("qos", "first"), [(1, 0x40), (2, 0x50)])
def test_an_unknown_failure_denies_the_publish(qos: int, first: int, code: int) -> None:
    """In PUBACK and in PUBREC: the receipt has the code, and the connection stays."""
    script = answering(CONNACK_5, lambda mid: bytes((first, 3)) + mid + bytes((code,)))
    with scripted_broker(script) as server, MqttClient(settings_for(server.port, version="5")) as client:
        client.connect(timeout=10)
        with pytest.raises(PublishDenied) as caught:
            client.publish("t", b"x", qos=qos).result(timeout=10)
        assert (caught.value.code, caught.value.exit_code) == (code, 6)
        assert client.stats.disconnects == 0


@pytest.mark.parametrize("codes", [b"", b"\x00", b"\x00\x00\x00"])
def test_a_suback_with_the_wrong_number_of_codes_ends_the_connection(codes: bytes) -> None:
    """The caller learns that the connection was lost, and the client connects again."""
    script = answering(CONNACK_311, lambda mid: bytes((0x90, 2 + len(codes))) + mid + codes)
    with scripted_broker(script) as server, MqttClient(settings_for(server.port, version="311")) as client:
        client.connect(timeout=10)
        with pytest.raises(BrokerUnreachable, match="unexpected packet"):
            client.subscribe("a", "b", timeout=5)
        assert not client.given_up
