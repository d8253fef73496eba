"""Connections through a SOCKS 5 proxy that speaks byte by byte what RFC 1928 says."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from mqttkit.client import MqttClient
from mqttkit.errors import BrokerUnreachable
from mqttkit.messages import Outcome
from tests.support.brokers import Mosquitto
from tests.support.clients import settings_for


class Proxy:
    """A proxy for one connection. It wants `login`, if it has one; `answer` replaces its answer to CONNECT."""

    def __init__(self, login: bytes = b"", answer: bytes | None = None) -> None:
        self.asked: list[tuple[str, int]] = []
        self._login, self._answer = login, answer
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        threading.Thread(target=self._serve, daemon=True).start()

    @property
    def address(self) -> str:
        """`host:port`."""
        return f"127.0.0.1:{self._listener.getsockname()[1]}"

    def close(self) -> None:
        """Close everything."""
        for each in (self._listener, *self._open):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _serve(self) -> None:
        with contextlib.suppress(OSError, ValueError, IndexError):
            near = self._listener.accept()[0]
            self._open.append(near)
            with near.makefile("rb") as stream:
                self._speak(near, stream)

    def _speak(self, near: socket.socket, stream: Any) -> None:
        methods = stream.read(stream.read(2)[1])
        wanted = 2 if self._login else 0
        near.sendall(bytes((5, wanted if wanted in methods else 0xFF)))
        if self._login:
            user = stream.read(stream.read(2)[1])
            password = stream.read(stream.read(1)[0])
            near.sendall(bytes((1, int(user + b":" + password != self._login))))
        host = stream.read(stream.read(5)[4]).decode()
        self.asked.append((host, int.from_bytes(stream.read(2), "big")))
        if self._answer is not None:
            near.sendall(self._answer)
            near.shutdown(socket.SHUT_WR)
            return
        far = socket.create_connection(self.asked[0])
        self._open.append(far)
        near.sendall(b"\5\0\0\3\4name\0\1")
        threading.Thread(target=_copy, args=(far, near), daemon=True).start()
        _copy(near, far)


def _copy(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65_536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


@contextlib.contextmanager
def proxy(login: bytes = b"", answer: bytes | None = None) -> Iterator[Proxy]:
    """Run a proxy."""
    running = Proxy(login, answer)
    try:
        yield running
    finally:
        running.close()


@pytest.mark.parametrize("user", ["", "me:pass%3Aword@"])
def test_messages_go_through_the_proxy(shared_broker: Mosquitto, topic: str, user: str) -> None:
    """The proxy gets the broker's name, not its address; a password is percent-encoded in the URL."""
    with proxy(b"me:pass:word" if user else b"") as socks:
        settings = settings_for(shared_broker.port, host="localhost", proxy=f"socks5h://{user}{socks.address}")
        with MqttClient(settings) as client:
            client.connect(timeout=60)
            client.subscribe(topic, timeout=60)
            assert client.publish(topic, b"x", qos=1).wait(60) is Outcome.ACKNOWLEDGED
            assert next(client.messages(60)).payload == b"x"
        assert socks.asked == [("localhost", shared_broker.port)]


@pytest.mark.parametrize(
    ("login", "answer", "user", "cause"),
    [
        (b"me:right", None, "me:wrong@", "it refuses the user name and password"),
        (b"me:right", None, "", "it requires a user name and a password"),
        (b"", b"\5\5\0\1\0\0\0\0\0\0", "", "connection refused"),
        (b"", b"\5\x63\0\1\0\0\0\0\0\0", "", "reply 99"),
        (b"", b"\5\0", "", "it closed the connection"),
    ],
)
def test_a_proxy_that_does_not_connect_is_named(login: bytes, answer: bytes | None, user: str, cause: str) -> None:
    """The error has the proxy's address, the cause, and no password."""
    with proxy(login, answer) as socks:
        settings = settings_for(1883, proxy=f"socks5h://{user}{socks.address}", connect_timeout=30.0)
        with (
            pytest.raises(
                BrokerUnreachable, match=f"the SOCKS proxy {socks.address} does not connect: {cause}"
            ) as failed,
            MqttClient(settings, retry=False) as client,
        ):
            client.connect()
        assert "wrong" not in str(failed.value)


def test_a_silent_proxy_costs_no_more_than_the_connect_timeout() -> None:
    """One deadline covers the handshake with the proxy too."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"socks5h://127.0.0.1:{listener.getsockname()[1]}"
        began = time.monotonic()
        with (
            pytest.raises(BrokerUnreachable, match="no answer"),
            MqttClient(settings_for(1883, proxy=url, connect_timeout=1.0), retry=False) as client,
        ):
            client.connect()
        assert time.monotonic() - began < 60
