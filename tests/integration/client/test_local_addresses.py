"""Connections through a Unix socket, from an address of this machine, and with a pre-shared key."""

from __future__ import annotations

import socket
import ssl
from pathlib import Path

import pytest

from mqttkit.client import MqttClient
from mqttkit.client.transport.tls import make_context
from mqttkit.errors import BrokerUnreachable, MissingPart
from mqttkit.messages import Outcome
from mqttkit.settings import BrokerSettings, MqttSettings, TlsSettings
from tests.support.brokers import free_port, mosquitto
from tests.support.clients import settings_for
from tests.support.scripted_broker import scripted_broker

CONNACK = b"\x20\x03\x00\x00\x00"
KEYS = hasattr(ssl.SSLContext, "set_psk_client_callback")


def test_a_unix_socket_carries_messages(tmp_path: Path) -> None:
    """Publish and receive; what names the address names the path."""
    path = str(tmp_path / "mqtt.sock")
    settings = MqttSettings(broker=BrokerSettings(unix_socket=path))
    with mosquitto(tmp_path / "mosquitto", f"listener 0 {path}"), MqttClient(settings) as client:
        client.connect(timeout=60)
        client.subscribe("a/b")
        assert client.publish("a/b", "through", qos=1).wait(60) is Outcome.ACKNOWLEDGED
        assert next(client.messages(60)).payload == b"through"
        assert client.address == (path, 0)


def test_a_unix_socket_without_a_broker_is_named(tmp_path: Path) -> None:
    """The error has the path, not a port."""
    path = str(tmp_path / "nothing.sock")
    client = MqttClient(MqttSettings(broker=BrokerSettings(unix_socket=path)), retry=False)
    with pytest.raises(BrokerUnreachable, match=f"^cannot reach broker {path}: no such file or directory$"), client:
        client.connect()


def test_the_client_connects_from_the_address_it_is_told() -> None:
    """The broker sees that address; one that this machine does not have is an error that names it."""
    peers: list[str] = []

    def answer(connection: socket.socket, _connect: bytes) -> bool:
        peers.append(connection.getpeername()[0])
        connection.sendall(CONNACK)
        return True

    with scripted_broker(answer) as server:
        with MqttClient(settings_for(server.port, bind_address="127.0.0.77")) as client:
            client.connect(timeout=60)
        assert peers == ["127.0.0.77"]
        with (
            pytest.raises(BrokerUnreachable, match=r"cannot connect from 192\.0\.2\.1: cannot assign"),
            MqttClient(settings_for(server.port, bind_address="192.0.2.1"), retry=False) as client,
        ):
            client.connect()


@pytest.mark.skipif(KEYS, reason="this Python has TLS-PSK")
def test_a_pre_shared_key_needs_python_3_13() -> None:
    """Earlier versions cannot do it: the error says which one can."""
    with pytest.raises(MissingPart, match=r"pre-shared key needs Python 3\.13 or newer\. Use a certificate: --cert"):
        make_context(TlsSettings(psk="c0ffee", psk_identity="lamp"))


@pytest.mark.skipif(not KEYS, reason="TLS-PSK needs Python 3.13")
def test_a_pre_shared_key_opens_the_connection(tmp_path: Path) -> None:
    """A wrong key does not."""
    (tmp_path / "keys").write_text("lamp:c0ffee\n")
    port = free_port()
    lines = (f"listener {port} 127.0.0.1", f"psk_file {tmp_path / 'keys'}", "psk_hint here")
    with mosquitto(tmp_path / "mosquitto", "per_listener_settings false", *lines):
        for key, accepted in (("c0ffee", True), ("c0ffef", False)):
            broker = BrokerSettings(host="127.0.0.1", port=port, tls=TlsSettings(psk=key, psk_identity="lamp"))
            with MqttClient(MqttSettings(broker=broker), retry=False) as client:
                if accepted:
                    client.connect(timeout=60)
                else:
                    with pytest.raises(BrokerUnreachable, match="TLS handshake"):
                        client.connect(timeout=60)
