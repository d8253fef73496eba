"""A bare TCP peer in place of a broker, so that only the client's own speed is measured.

It answers CONNECT and SUBSCRIBE. Then it reads publishes of one size, and acknowledges those of QoS 1, or it writes
prepared ones.
"""

from __future__ import annotations

import contextlib
import socket
import time
from dataclasses import dataclass

from mqttkit.client.receiving.splitter import packet_end, remaining_length

TOPIC = "mqttkit-wire/topic"
READ_BYTES = 1024 * 1024
BLOCK = 2_000
"""Messages per write."""
CONNECT, PUBLISH, SUBSCRIBE, PINGREQ, DISCONNECT = 0x10, 0x30, 0x82, 0xC0, 0xE0
LIMIT_SECONDS = 120.0


@dataclass(frozen=True)
class Exchange:
    """What one connection carried."""

    messages: int
    """Whole publishes read or written; at QoS 1 those acknowledged."""
    seconds: float
    """From the CONNECT to the last of them."""


class BarePeer:
    """Listens on a loopback port and serves one connection at a time."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(LIMIT_SECONDS)
        self.port = int(self._listener.getsockname()[1])

    def __enter__(self) -> BarePeer:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()

    def read(self) -> Exchange:
        """Serve one publisher until it disconnects; return what it published."""
        connection, _ = self._listener.accept()
        with connection:
            return _PublisherConnection(connection).serve()

    def write(self, count: int, size: int) -> Exchange:
        """Serve one subscriber: send it `count` publishes of `size` bytes, then wait for the end."""
        connection, _ = self._listener.accept()
        with connection:
            return _serve_subscriber(connection, count, size)


class _PublisherConnection:
    """Reads publishes of one size and the few other packets between and after them."""

    def __init__(self, connection: socket.socket) -> None:
        connection.settimeout(LIMIT_SECONDS)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._connection = connection
        self._v5, self._rest = _accept(connection)
        self._messages = 0
        self._began = self._last = time.perf_counter()

    def serve(self) -> Exchange:
        data = self._rest
        with contextlib.suppress(ConnectionError):  # a client may end before it has read every acknowledgement
            while True:
                data = data[self._take(data) :]
                chunk = self._connection.recv(READ_BYTES)
                if not chunk:
                    break
                data = data + chunk if data else chunk
        return Exchange(self._messages, self._last - self._began)

    def _take(self, data: bytes) -> int:
        """Handle the whole packets in `data`; return their bytes."""
        position = 0
        while (stop := packet_end(data, position)) <= len(data) and position < len(data):
            if data[position] & 0xF0 == PUBLISH:
                position = self._take_publishes(data, position, stop - position)
                continue
            if data[position] == SUBSCRIBE:
                _answer_subscribe(self._connection, data[position:stop], v5=self._v5)
            elif data[position] & 0xF0 == PINGREQ:
                self._connection.sendall(b"\xd0\0")
            position = stop
        return position

    def _take_publishes(self, data: bytes, position: int, size: int) -> int:
        """Count the publishes that have the size and the first byte of the one at `position`; acknowledge QoS 1."""
        whole = (len(data) - position) // size
        firsts, wanted = data[position : position + whole * size : size], data[position]
        count = len(firsts) - len(firsts.lstrip(bytes((wanted,))))
        end = position + count * size
        if wanted & 6:
            start, _ = remaining_length(data, position)
            mid = start + 2 + int.from_bytes(data[start : start + 2], "big")
            answers = bytearray(b"@\2\0\0" * count)
            answers[2::4], answers[3::4] = data[mid:end:size], data[mid + 1 : end : size]
            self._connection.sendall(answers)
        self._messages += count
        self._last = time.perf_counter()
        return end


def _serve_subscriber(connection: socket.socket, count: int, size: int) -> Exchange:
    connection.settimeout(LIMIT_SECONDS)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    v5, data = _accept(connection)
    while packet_end(data, 0) > len(data) or not data:
        data += connection.recv(READ_BYTES)
    _answer_subscribe(connection, data[: packet_end(data, 0)], v5=v5)
    topic = TOPIC.encode()
    body = len(topic).to_bytes(2, "big") + topic + b"\0" * v5 + b"x" * size
    packet = bytes((PUBLISH, len(body) & 127 | 128, len(body) >> 7)) + body
    block = packet * BLOCK
    began = time.perf_counter()
    try:
        for _ in range(count // BLOCK):
            connection.sendall(block)
        connection.sendall(packet * (count % BLOCK))
        last = time.perf_counter()
        while connection.recv(READ_BYTES):
            pass
    except ConnectionError:
        last = time.perf_counter()
    return Exchange(count, last - began)


def _accept(connection: socket.socket) -> tuple[bool, bytes]:
    """Answer CONNECT; return whether it asked for MQTT 5, and the bytes behind it."""
    data = b""
    while packet_end(data, 0) > len(data) or not data:
        data += connection.recv(READ_BYTES)
    v5 = data[data.index(b"MQTT") + 4] == 5
    connection.sendall(b"\x20\3\0\0\0" if v5 else b"\x20\2\0\0")
    return v5, data[packet_end(data, 0) :]


def _answer_subscribe(connection: socket.socket, packet: bytes, *, v5: bool) -> None:
    """Grant QoS 0 for a SUBSCRIBE with one topic filter."""
    start, _ = remaining_length(packet, 0)
    body = packet[start : start + 2] + b"\0" * v5 + b"\0"
    connection.sendall(bytes((0x90, len(body))) + body)
