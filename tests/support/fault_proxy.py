"""A TCP proxy on loopback that can fall silent (half-open connections), refuse, and cut."""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
from collections.abc import Iterator


class FaultProxy:
    """Forward to a port of the loopback address; one thread serves all connections."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._pairs: dict[socket.socket, socket.socket] = {}
        self._selector = selectors.DefaultSelector()
        self._wake, self._woken = socket.socketpair()
        self._silent: set[socket.socket] = set()
        self._closing = False
        self.accepted = 0
        """Connections taken so far."""
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._listener.getsockname()[1])

    def silence(self) -> None:
        """Forward nothing more on the connections there are, and close none of them: half-open."""
        with self._lock:
            self._silent = set(self._pairs)
            for end in self._silent:
                self._selector.unregister(end)

    def cut(self) -> None:
        """Close every connection there is."""
        with self._lock:
            for end in list(self._pairs):
                self._drop(end)

    def close(self) -> None:
        """Stop."""
        self._closing = True
        self._wake.send(b"x")
        self._thread.join(5)
        self.cut()
        self._selector.close()
        for part in (self._listener, self._wake, self._woken):
            part.close()

    def _serve(self) -> None:
        while not self._closing:
            for key, _ in self._selector.select(0.05):
                with self._lock:
                    if key.fileobj is self._listener:
                        self._accept()
                    elif key.fileobj in self._pairs:
                        self._forward(key.fileobj)  # type: ignore[arg-type]

    def _accept(self) -> None:
        near = self._listener.accept()[0]
        self.accepted += 1
        try:
            far = socket.create_connection(("127.0.0.1", self._target), timeout=2)
        except OSError:
            near.close()
            return
        for one, other in ((near, far), (far, near)):
            one.settimeout(5)
            self._pairs[one] = other
            self._selector.register(one, selectors.EVENT_READ)

    def _forward(self, source: socket.socket) -> None:
        try:
            data = source.recv(65_536)
            if data:
                self._pairs[source].sendall(data)
        except OSError:
            data = b""
        if not data:
            self._drop(source)

    def _drop(self, end: socket.socket) -> None:
        other = self._pairs.pop(end, None)
        if other is None:
            return
        self._pairs.pop(other, None)
        for one in (end, other):
            with contextlib.suppress(KeyError, ValueError):
                self._selector.unregister(one)
            one.close()


@contextlib.contextmanager
def fault_proxy(target: int) -> Iterator[FaultProxy]:
    """Run a proxy in front of a port."""
    proxy = FaultProxy(target)
    try:
        yield proxy
    finally:
        proxy.close()
