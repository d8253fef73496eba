"""WebSocket handshake and frames under MQTT (RFC 6455; MQTT 5, 6).

paho's own framing masks byte by byte, copies a large frame once for each read, and loses a packet that a socket
takes only in part; its handshake has no bound on time or size.
"""

from __future__ import annotations

import base64
import hashlib
import os
import time
from typing import Any

from paho.mqtt.client import _WebsocketWrapper

FRAME_BYTES = 256 * 1024
"""Payload of the largest frame we send."""
MAX_HEADER_BYTES = 16 * 1024
"""Largest answer to the handshake."""
MAX_CONTROL_BYTES = 125
"""Largest payload of a ping, pong or close (RFC 6455, 5.5)."""
KEY_SUFFIX = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
"""Proves that the server read our key (RFC 6455, 1.3)."""
WANTS = ("SSLWantReadError", "SSLWantWriteError")
CONTINUATION, BINARY, CLOSE, PING, PONG = 0, 2, 8, 9, 10


class BatchedWebSocket(_WebsocketWrapper):
    """A socket whose bytes travel in WebSocket frames."""

    def __init__(self, *, deadline: float, **arguments: Any) -> None:
        """Shake hands until `deadline` on the monotonic clock; raise OSError or ValueError if that fails."""
        self._deadline = deadline
        self._frames = FrameReader()
        self._unsent: memoryview | bytes = b""
        super().__init__(**arguments)

    @property
    def unsent(self) -> bool:
        """True while a frame is not wholly handed to the operating system."""
        return bool(self._unsent)

    def recv(self, length: int) -> bytes:
        """Return what arrived of the payload; BlockingIOError for none, empty for the end."""
        if self._frames.closed:
            return b""
        data = self._socket.recv(length)
        if not data:
            return b""
        payload = self._frames.feed(data)
        for opcode, content in self._frames.take_controls():
            if not self._unsent:
                self._start(make_frame(PONG if opcode == PING else CLOSE, content))
        if not payload and not self._frames.closed:
            raise BlockingIOError
        return payload

    def send(self, data: bytes | bytearray | memoryview) -> int:
        """Send the beginning of `data` as one frame and return its length; raise BlockingIOError if none is taken.

        The rest of a frame that the operating system takes only in part is `unsent`, and is sent before the next frame.
        """
        if not self.flush():
            raise BlockingIOError
        piece = bytes(data[:FRAME_BYTES])
        self._start(make_frame(BINARY, piece))
        return len(piece)

    def flush(self) -> bool:
        """Send the rest of a frame; return False if the operating system does not take all of it."""
        while self._unsent:
            sent = self._try_send(self._unsent)
            if not sent:
                return False
            self._unsent = self._unsent[sent:]
        return True

    def pending(self) -> int:
        """Bytes that poll cannot see: inside the TLS object, or the end after a close frame."""
        return 1 if self._frames.closed else super().pending()

    def _do_handshake(self, extra_headers: object) -> None:
        """Ask for the upgrade and check the answer (RFC 6455, 4.1)."""
        key = base64.b64encode(os.urandom(16))
        host = self._host if self._port == (443 if self._ssl else 80) else f"{self._host}:{self._port}"
        request = (
            f"GET {self._path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Origin: {'https' if self._ssl else 'http'}://{host}\r\nSec-WebSocket-Key: {key.decode()}\r\n"
            "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n"
        )
        self._limit_time()
        self._socket.sendall(request.encode())
        check_upgrade(self._read_header(), key)
        self.connected = True

    def _read_header(self) -> bytes:
        """Read up to the empty line, a byte at a time: what follows is MQTT."""
        header = b""
        while not header.endswith((b"\r\n\r\n", b"\n\n")):
            self._limit_time()
            try:
                byte = self._socket.recv(1)
            except ConnectionResetError:
                byte = b""
            if not byte:
                raise ConnectionError("it closed the connection")
            header += byte
            if len(header) > MAX_HEADER_BYTES:
                raise ConnectionError(f"it sent a header of more than {MAX_HEADER_BYTES} bytes")
        return header

    def _limit_time(self) -> None:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        self._socket.settimeout(left)

    def _start(self, frame: bytes) -> None:
        self._unsent = memoryview(frame)
        self.flush()

    def _try_send(self, data: memoryview | bytes) -> int:
        """Return how many bytes were taken; 0 if the socket is full."""
        try:
            return self._socket.send(data)
        except OSError as error:
            # By name: asking for ssl's classes would load OpenSSL for plain TCP.
            if isinstance(error, BlockingIOError) or type(error).__name__ in WANTS:
                return 0
            raise


class FrameReader:
    """Takes a server's frames apart; payload passes as it comes, whole frame or not."""

    def __init__(self) -> None:
        self.closed = False
        """True after a close frame."""
        self._kept = b""
        self._left = 0
        self._controls: list[tuple[int, bytes]] = []

    def feed(self, data: bytes) -> bytes:
        """Return the payload in `data`; raise ConnectionError for what no server may send."""
        data, self._kept, position = self._kept + data, b"", 0
        pieces = []
        while position < len(data) and not self.closed:
            if not self._left:
                after = self._begin_frame(data, position)
                if not after:
                    self._kept = data[position:]
                    break
                position = after
            piece = data[position : position + self._left]
            position += len(piece)
            self._left -= len(piece)
            pieces.append(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def take_controls(self) -> list[tuple[int, bytes]]:
        """Return the pings and closes found, to be answered."""
        found, self._controls = self._controls, []
        return found

    def _begin_frame(self, data: bytes, position: int) -> int:
        """Read a frame's head, and a control frame whole; return where payload begins, 0 for bytes missing."""
        head = data[position : position + 10]
        if len(head) < 2:
            return 0
        opcode, length = head[0] & 15, head[1]
        size = {126: 4, 127: 10}.get(length, 2)
        if head[0] & 0x70 or length > 127 or opcode not in (CONTINUATION, BINARY, CLOSE, PING, PONG):
            raise ConnectionError("malformed WebSocket frame")
        if len(head) < size:
            return 0
        if size > 2:
            length = int.from_bytes(head[2:size], "big")
        if opcode < CLOSE:
            self._left = length
            return position + size
        if length > MAX_CONTROL_BYTES:
            raise ConnectionError("WebSocket control frame of more than 125 bytes")
        return self._control(opcode, data[position + size : position + size + length], length, position + size)

    def _control(self, opcode: int, content: bytes, length: int, start: int) -> int:
        if len(content) < length:
            return 0
        self.closed = opcode == CLOSE
        if opcode != PONG:
            self._controls.append((opcode, content))
        return start + length


def check_upgrade(header: bytes, key: bytes) -> None:
    """Raise NotUpgraded unless a server's answer agrees to WebSockets and proves that it read `key`."""
    lines = header.split(b"\n")
    fields = {name.strip().lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines[1:])}
    proof = base64.b64encode(hashlib.sha1(key + KEY_SUFFIX).digest())  # noqa: S324  # as the specification says
    if b"upgrade" not in fields.get(b"connection", b"").lower():
        raise NotUpgraded(lines[0][:100].decode("latin-1").strip(), http=lines[0].startswith(b"HTTP/"))
    if fields.get(b"sec-websocket-accept") != proof:
        raise NotUpgraded("a wrong Sec-WebSocket-Accept", http=True)


class NotUpgraded(ConnectionError):
    """The server does not agree to WebSockets; `http` says whether it speaks HTTP."""

    def __init__(self, answer: str, *, http: bool) -> None:
        super().__init__(f"it answered {answer!r}")
        self.http = http


def make_frame(opcode: int, payload: bytes) -> bytes:
    """Return a client's frame: final, masked (RFC 6455, 5.3)."""
    size = len(payload)
    if size < 126:
        head = bytes((0x80 | opcode, 0x80 | size))
    elif size < 65_536:
        head = bytes((0x80 | opcode, 0x80 | 126)) + size.to_bytes(2, "big")
    else:
        head = bytes((0x80 | opcode, 0x80 | 127)) + size.to_bytes(8, "big")
    key = os.urandom(4)
    mask = (key * (size // 4 + 1))[:size]
    masked = int.from_bytes(payload, "big") ^ int.from_bytes(mask, "big")
    return head + key + masked.to_bytes(size, "big")
