"""Opens the socket of a connection: TCP or a Unix socket, then TLS, then WebSockets."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from typing import Any

from mqttkit.addresses import ProxyUrl
from mqttkit.client.transport import sockets
from mqttkit.client.transport.tls import TlsFiles
from mqttkit.client.transport.websocket import BatchedWebSocket


class Opener:
    """How to open a socket, and how far the latest attempt came."""

    def __init__(self) -> None:
        self.timeout = 5.0
        """Seconds for the whole attempt, CONNACK included."""
        self.deadline = 0.0
        """When the current attempt ends, on the monotonic clock."""
        self.tls: TlsFiles | None = None
        self.proxy: ProxyUrl | None = None
        """SOCKS proxy to connect through."""
        self.source: str | None = None
        """Address of this machine from which to connect."""
        self.server_name: str | None = None
        """Name that the broker's certificate must have; the address's host if it is None."""
        self.websocket_path: str | None = None
        """Path of the WebSocket request; None for plain TCP."""
        self.user_timeout = 0.0
        """Seconds after which data that the broker's machine does not confirm ends the connection; 0 for none."""
        self.max_unsent_bytes: int | None = None
        """Bytes that may wait in the kernel; None for as many as it takes."""
        self.step = "tcp"
        """What the latest attempt was doing: tcp, tls, websocket or mqtt."""
        self._opening: Any = None

    def start(self) -> None:
        """Begin an attempt: its deadline covers every step."""
        self.step = "tcp"
        self.deadline = time.monotonic() + self.timeout

    def open(self, address: tuple[str, int], open_tcp: Callable[[], socket.socket] | None = None) -> Any:
        """Return a socket for MQTT; raise what the failed `step` raises, and leave no socket open then."""
        try:
            opened: Any = self._connect(address) if open_tcp is None else open_tcp()
            self._opening = opened
            self._set_options(opened)
            if self.tls is not None:
                self.step = "tls"
                opened = self._opening = self._shake_hands(self.tls, opened, self.server_name or address[0])
            if self.websocket_path is not None:
                self.step = "websocket"
                opened = self._upgrade(opened, address, self.websocket_path)
        except BaseException:
            if self._opening is not None:
                self._opening.close()
            raise
        finally:
            self._opening = None
        self.step = "mqtt"
        return opened

    def cancel(self) -> None:
        """End the attempt under way: its socket reads the end. Any thread."""
        opening = self._opening
        if opening is not None:
            sockets.shut_down(opening.fileno())

    def _connect(self, address: tuple[str, int]) -> socket.socket:
        def watch(opening: socket.socket) -> None:
            self._opening = opening

        via = address if self.proxy is None else (self.proxy.host, self.proxy.port)
        opened = sockets.open_stream(via, self.deadline - time.monotonic(), watch, source=self.source)
        if self.proxy is not None:
            from mqttkit.client.transport.socks import connect_through

            connect_through(opened, self.proxy, address, self.deadline)
        return opened

    def _set_options(self, opened: socket.socket) -> None:
        if opened.family == socket.AF_UNIX:
            return
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self.max_unsent_bytes is not None and hasattr(socket, "TCP_NOTSENT_LOWAT"):
            opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, self.max_unsent_bytes)
        if self.user_timeout and hasattr(socket, "TCP_USER_TIMEOUT"):
            opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(1000 * self.user_timeout))

    def _shake_hands(self, tls: TlsFiles, opened: socket.socket, host: str) -> Any:
        wrapped = tls.context().wrap_socket(opened, server_hostname=host, do_handshake_on_connect=False)
        self._opening = wrapped
        wrapped.settimeout(max(0.001, self.deadline - time.monotonic()))  # of the whole handshake, not of each read
        wrapped.do_handshake()
        return wrapped

    def _upgrade(self, opened: Any, address: tuple[str, int], path: str) -> BatchedWebSocket:
        host, port = address if address[1] else (self.server_name or "localhost", 80)
        is_ssl = self.tls is not None
        arguments = {"socket": opened, "host": host, "port": port, "is_ssl": is_ssl, "path": path}
        return BatchedWebSocket(**arguments, extra_headers=None, deadline=self.deadline)
