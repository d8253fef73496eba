"""Opening a connection: one deadline for every step, and no answer without an end."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from mqttkit.client import MqttClient
from mqttkit.client.transport import sockets
from mqttkit.client.transport.websocket import KEY_SUFFIX, MAX_HEADER_BYTES, PING, BatchedWebSocket, FrameReader
from mqttkit.errors import BrokerUnreachable
from tests.support.clients import settings_for
from tests.support.scripted_broker import scripted_broker


@contextmanager
def answered(answer: Callable[[socket.socket, bytes], None]) -> Iterator[socket.socket]:
    """Yield one end of a socket pair; the other reads a request and answers it in a thread."""
    near, far = socket.socketpair()

    def serve() -> None:
        with contextlib.suppress(OSError):
            answer(far, far.recv(4096))

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield near
    finally:
        near.close()
        thread.join(60)
        far.close()


def upgrade(near: socket.socket, seconds: float = 60.0) -> BatchedWebSocket:
    """Shake hands."""
    deadline = time.monotonic() + seconds
    return BatchedWebSocket(
        socket=near, host="h", port=80, is_ssl=False, path="/mqtt", extra_headers=None, deadline=deadline
    )


def proof_of(request: bytes) -> bytes:
    """Return what proves that the server read the key of a request."""
    key = next(line.partition(b": ")[2] for line in request.split(b"\r\n") if line.startswith(b"Sec-WebSocket-Key"))
    return base64.b64encode(hashlib.sha1(key + KEY_SUFFIX).digest())


@pytest.mark.parametrize("feed", [b"\r\n", b"\n"])
def test_an_upgrade_leaves_the_bytes_behind_it_unread(feed: bytes) -> None:
    """They are MQTT. Header names and values may be written in any case."""

    def answer(far: socket.socket, request: bytes) -> None:
        assert request.startswith(b"GET /mqtt HTTP/1.1\r\nHost: h\r\n")
        lines = [b"HTTP/1.1 101 Switching", b"UPGRADE: WebSocket", b"connection: keep-alive, upgrade"]
        far.sendall(feed.join([*lines, b"sec-websocket-accept:" + proof_of(request), b"", b""]) + b"\x82\x02ok")

    with answered(answer) as near:
        assert upgrade(near).recv(100) == b"ok"


@pytest.mark.parametrize(
    ("sent", "says"),
    [
        (b"HTTP/1.1 404 Not Found\r\n\r\n", "it answered 'HTTP/1.1 404 Not Found'"),
        (b"HTTP/1.1 101 x\r\nConnection: upgrade\r\nSec-WebSocket-Accept: x\r\n\r\n", "wrong Sec-WebSocket-Accept"),
        (b"x" * (MAX_HEADER_BYTES + 1), "a header of more than 16384 bytes"),
        (b"\x20\x02", "it closed the connection"),
    ],
)
def test_what_is_not_an_upgrade_is_named(sent: bytes, says: str) -> None:
    """An endless header line too."""

    def answer(far: socket.socket, _request: bytes) -> None:
        far.sendall(sent)
        far.shutdown(socket.SHUT_WR)

    with answered(answer) as near, pytest.raises(ConnectionError, match=says):
        upgrade(near)


@pytest.mark.parametrize("websocket", [True, False])
def test_one_deadline_covers_an_answer_that_drips(websocket: bool) -> None:
    """A byte every now and then does not prolong it: it hung for 40 s despite `-W 3`."""
    done = threading.Event()

    def drip(connection: socket.socket, _request: bytes) -> bool:
        data = b"HTTP/1.1 101 x" if websocket else b"\x20\xff\x01"
        while not done.wait(0.05):
            connection.sendall(data[:1])
            data = data[1:] or b"x"
        return False

    with scripted_broker(drip) as server:
        options = {"transport": "websockets"} if websocket else {}
        settings = settings_for(server.port, version="311", connect_timeout=0.4, **options)
        began = time.monotonic()
        with pytest.raises(BrokerUnreachable), MqttClient(settings) as client:
            client.connect()
        assert time.monotonic() - began < 30
        done.set()


def test_the_addresses_of_a_host_share_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A black hole at the first one leaves time for the second."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        found = [(socket.AF_INET, socket.SOCK_STREAM, 0, "", (host, listener.getsockname()[1])) for host in ("b", "a")]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_given, **_options: found)
        given: list[float | None] = []

        class Opening(socket.socket):
            def connect(self, address: object) -> None:
                given.append(self.gettimeout())
                if len(given) == 1:
                    raise TimeoutError("timed out")
                super().connect(listener.getsockname())

        monkeypatch.setattr(socket, "socket", Opening)
        sockets.open_stream(("h", 1), 1_000).close()
    assert given == [pytest.approx(500, abs=60), pytest.approx(1_000, abs=120)]


def test_a_control_frame_of_any_size_above_125_bytes_is_refused() -> None:
    """A ping of 2^40 bytes was kept until memory ended (RFC 6455, 5.5)."""
    with pytest.raises(ConnectionError, match="control frame"):
        FrameReader().feed(bytes((0x80 | PING, 127)) + (1 << 40).to_bytes(8, "big"))
    with pytest.raises(ConnectionError, match="control frame"):
        FrameReader().feed(bytes((0x80 | PING, 126)) + (126).to_bytes(2, "big"))
