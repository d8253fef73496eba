"""The seam into paho: every private name of paho that mqttkit overrides or reads is in this file."""

from __future__ import annotations

import paho.mqtt.client as paho


class BatchedClient(paho.Client):
    """paho's client; plain TCP does not load the ssl module."""

    def _sock_recv(self, bufsize: int) -> bytes:
        """Receive as paho does; its `except ssl.…` would load ssl whenever nothing waits to be read."""
        if self._ssl:
            return super()._sock_recv(bufsize)
        if self._sock is None:
            raise ConnectionError("the socket is closed")
        return self._sock.recv(bufsize)

    def _sock_send(self, buf: bytes | bytearray) -> int:
        """Send as paho does, without loading ssl for plain TCP."""
        if self._ssl:
            return super()._sock_send(buf)
        if self._sock is None:
            raise ConnectionError("the socket is closed")
        try:
            return self._sock.send(buf)
        except BlockingIOError:
            self._call_socket_register_write()
            raise
