"""MqttClient over TLS against real mosquittos: authorities, client certificates, ALPN, WebSockets."""

from __future__ import annotations

import logging
import os
import queue
import socket
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from mqttkit.client import MqttClient
from mqttkit.client.transport.tls import make_context
from mqttkit.errors import BrokerUnreachable, ConfigError
from mqttkit.messages import Message, Outcome, Subscription
from mqttkit.settings import TlsSettings
from tests.support.brokers import free_port, mosquitto, wait_for_port
from tests.support.clients import settings_for
from tests.support.tls import Authority, Signed


@dataclass
class Secured:
    """A mosquitto with a TLS listener, one that wants client certificates, and one for WebSockets over TLS."""

    authority: Authority
    server: Signed
    tls: int
    mutual: int
    websockets: int
    plain: int


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    """Run it."""
    directory = tmp_path_factory.mktemp("tls")
    os.chmod(directory, 0o755)
    authority = Authority(directory)
    server = authority.sign("localhost", names=("localhost", "127.0.0.1"))
    files = (f"cafile {authority.file}", f"certfile {server.cert}", f"keyfile {server.key}")
    ports = [free_port() for _ in range(3)]
    lines = []
    for port, more in zip(ports, ((), ("require_certificate true",), ("protocol websockets",)), strict=True):
        lines += [f"listener {port} 127.0.0.1", *files, *more]
    with mosquitto(directory / "broker", *lines) as broker:
        for port in ports:
            wait_for_port(port)
        yield Secured(authority, server, *ports, broker.port)


def round_trip(port: int, topic: str, tls: TlsSettings, size: int = 10, **fields: object) -> bytes:
    """Publish a payload of `size` bytes at QoS 1; return the one received."""
    received: queue.Queue[Message] = queue.Queue()
    with MqttClient(settings_for(port, tls=tls, **fields), on_message=received.put) as client:
        client.connect(timeout=60)
        client.subscribe(Subscription(topic, qos=1))
        assert client.publish(topic, bytes(size), qos=1).wait(60) is Outcome.ACKNOWLEDGED
        return received.get(timeout=60).payload


def failure(port: int, tls: TlsSettings, **fields: object) -> BrokerUnreachable:
    """Return the error of a connection that must fail."""
    with MqttClient(settings_for(port, tls=tls, **fields)) as client, pytest.raises(BrokerUnreachable) as caught:
        client.connect(timeout=60)
    return caught.value


@pytest.mark.parametrize("size", [10, 1_000_000])
def test_trusted_authority(secured: Secured, topic: str, size: int) -> None:
    """A broker whose certificate our authority signed is talked to, in small messages and large."""
    assert round_trip(secured.tls, topic, TlsSettings(ca_file=secured.authority.file), size) == bytes(size)


def test_websockets_over_tls(secured: Secured, topic: str) -> None:
    """WSS works."""
    tls = TlsSettings(ca_file=secured.authority.file)
    assert round_trip(secured.websockets, topic, tls, transport="websockets") == bytes(10)


def test_unknown_authority_is_refused(secured: Secured) -> None:
    """The system's authorities did not sign it: the certificate is named as the cause, and the option that helps."""
    error = failure(secured.tls, TlsSettings())
    assert error.step == "tls"
    assert "not trusted" in str(error)
    assert "--cafile" in str(error)


@pytest.mark.parametrize(
    ("name", "hours", "cause", "hint"),
    [
        ("other.example", 1, "127.0.0.1", "a host name from the certificate: -h"),
        ("127.0.0.1", -1, "expired", "Renew the certificate"),
    ],
)
def test_wrong_or_expired_certificate_is_refused(
    tmp_path: Path, name: str, hours: float, cause: str, hint: str
) -> None:
    """It is not accepted, though the authority is ours; the hint is not to trust that authority."""
    authority = Authority(tmp_path)
    other = authority.sign(name, hours=hours)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(other.cert, other.key)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=_handshake_once, args=(listener, context))
        thread.start()
        error = failure(listener.getsockname()[1], TlsSettings(ca_file=authority.file))
        thread.join(60)
    assert cause in error.cause
    assert hint in error.hint
    assert ".." not in str(error)
    assert "--cafile" not in str(error)


def test_insecure_accepts_anything_and_warns(secured: Secured, topic: str, caplog: pytest.LogCaptureFixture) -> None:
    """The insecure switch works, and says what it means."""
    with caplog.at_level(logging.WARNING, "mqttkit"):
        round_trip(secured.tls, topic, TlsSettings(insecure=True))
    assert any("not checked" in record.message for record in caplog.records)


def test_client_certificate(secured: Secured, topic: str) -> None:
    """A listener that wants a client certificate takes ours, and does not take us without."""
    mine = secured.authority.sign("client-1")
    tls = TlsSettings(ca_file=secured.authority.file, cert_file=mine.cert, key_file=mine.key)
    assert round_trip(secured.mutual, topic, tls) == bytes(10)
    error = failure(secured.mutual, TlsSettings(ca_file=secured.authority.file))
    assert error.exit_code == 3
    assert "--cert" in error.hint


def test_certificate_and_key_that_do_not_match_are_named(secured: Secured) -> None:
    """A key of another certificate is an error of the configuration, before anything connects."""
    one, two = secured.authority.sign("one"), secured.authority.sign("two")
    tls = TlsSettings(ca_file=secured.authority.file, cert_file=one.cert, key_file=two.key)
    with pytest.raises(ConfigError, match="cannot be used"):
        MqttClient(settings_for(secured.tls, tls=tls))


def test_tls_to_a_plain_port_and_plain_to_a_tls_port(secured: Secured) -> None:
    """Each mistake has its own words."""
    error = failure(secured.plain, TlsSettings(ca_file=secured.authority.file), connect_timeout=2.0)
    assert error.step == "tls"
    with MqttClient(settings_for(secured.tls)) as client, pytest.raises(BrokerUnreachable, match="TLS"):
        client.connect(timeout=60)


def test_application_protocol_is_offered(tmp_path: Path) -> None:
    """ALPN reaches the server (RFC 7301)."""
    authority = Authority(tmp_path)
    server = authority.sign("localhost", names=("127.0.0.1",))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(server.cert, server.key)
    context.set_alpn_protocols(["mqtt"])
    chosen: list[str | None] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=_handshake_once, args=(listener, context, chosen))
        thread.start()
        failure(listener.getsockname()[1], TlsSettings(ca_file=authority.file, alpn=("mqtt",)), version="311")
        thread.join(60)
    assert chosen == ["mqtt"]


def _handshake_once(listener: socket.socket, context: ssl.SSLContext, chosen: list[str | None] | None = None) -> None:
    """Accept one connection, shake hands, note the protocol chosen, close."""
    connection = listener.accept()[0]
    connection.settimeout(60)
    try:
        with context.wrap_socket(connection, server_side=True) as secured:
            if chosen is not None:
                chosen.append(secured.selected_alpn_protocol())
    except OSError:
        connection.close()


def test_a_key_log_that_cannot_be_written_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """SSLKEYLOGFILE is for looking at packets: it must not end a connection. One that can be written is used."""
    monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "missing" / "keys"))
    make_context(TlsSettings())
    assert "cannot write TLS keys into SSLKEYLOGFILE" in caplog.text
    monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "keys"))
    assert make_context(TlsSettings()).keylog_filename == str(tmp_path / "keys")
