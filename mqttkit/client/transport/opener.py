"""Opens the socket of a connection: TCP, then TLS, then WebSockets."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mqttkit.client.transport.tls import TlsFiles
from mqttkit.client.transport.websocket import BatchedWebSocket


@dataclass
class Opener:
    """How to open a socket, and how far the latest attempt came."""

    timeout: float = 5.0
    """Seconds for each handshake."""
    tls: TlsFiles | None = None
    websocket_path: str | None = None
    """Path of the WebSocket request; None for plain TCP."""
    step: str = "tcp"
    """What the latest attempt was doing: tcp, tls, websocket or mqtt."""

    def open(self, address: tuple[str, int], open_tcp: Callable[[], socket.socket]) -> Any:
        """Return a socket for MQTT; raise what the failed `step` raises, and leave no socket open then."""
        self.step = "tcp"
        opened: Any = open_tcp()
        try:
            opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self.tls is not None:
                self.step = "tls"
                opened = self._shake_hands(self.tls, opened, address[0])
            if self.websocket_path is not None:
                self.step = "websocket"
                opened.settimeout(self.timeout)
                opened = self._upgrade(opened, address, self.websocket_path)
        except BaseException:
            opened.close()
            raise
        self.step = "mqtt"
        return opened

    def _shake_hands(self, tls: TlsFiles, opened: socket.socket, host: str) -> Any:
        wrapped = tls.context().wrap_socket(opened, server_hostname=host, do_handshake_on_connect=False)
        wrapped.settimeout(self.timeout)
        try:
            wrapped.do_handshake()
        except BaseException:
            wrapped.close()
            raise
        return wrapped

    def _upgrade(self, opened: Any, address: tuple[str, int], path: str) -> BatchedWebSocket:
        host, port = address
        is_ssl = self.tls is not None
        return BatchedWebSocket(socket=opened, host=host, port=port, is_ssl=is_ssl, path=path, extra_headers=None)
