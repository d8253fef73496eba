"""A server that answers connections with given bytes: for what no real broker on this machine does."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator


class ScriptedBroker:
    """Listens on loopback; `answer` gets a connection and its CONNECT; it stays open where that returns True."""

    def __init__(self, answer: Callable[[socket.socket, bytes], bool]) -> None:
        self.connects: list[bytes] = []
        self._answer = answer
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        """TCP port of the loopback address."""
        return int(self._listener.getsockname()[1])

    def close(self) -> None:
        """Stop listening and close every connection."""
        for each in (self._listener, *self._open):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(5)
        for connection in self._open:
            connection.close()

    def _serve(self) -> None:
        while True:
            try:
                connection = self._listener.accept()[0]
            except OSError:
                return
            self._open.append(connection)
            connection.settimeout(60)
            with contextlib.suppress(OSError):
                packet = connection.recv(4096)
                if packet:
                    self.connects.append(packet)
                if not (packet and self._answer(connection, packet)):
                    connection.close()


@contextlib.contextmanager
def scripted_broker(answer: Callable[[socket.socket, bytes], bool]) -> Iterator[ScriptedBroker]:
    """Run a ScriptedBroker."""
    server = ScriptedBroker(answer)
    try:
        yield server
    finally:
        server.close()


def protocol_level(connect: bytes) -> int:
    """Return the protocol level of a CONNECT packet: 4 or 5 (MQTT 5, 3.1.2.2)."""
    return connect[connect.index(b"MQTT") + 4]
