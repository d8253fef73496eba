"""Connections through a SOCKS 5 proxy (RFC 1928, RFC 1929). The proxy resolves the broker's name."""

from __future__ import annotations

import socket
import time

from mqttkit.addresses import ProxyUrl, show_address

NO_PASSWORD, PASSWORD, NO_METHOD = 0, 2, 0xFF
_REFUSALS = {
    1: "general failure",
    2: "its rules do not allow the broker",
    3: "network unreachable",
    4: "host unreachable",
    5: "connection refused",
    6: "timed out",
}
_SIZES = {1: 4, 4: 16}
"""Bytes of an IPv4 and of an IPv6 address, by the address type of an answer."""


def connect_through(connection: socket.socket, proxy: ProxyUrl, address: tuple[str, int], deadline: float) -> None:
    """Make the proxy at the other end of `connection` connect to the broker; raise OSError, which names the proxy."""
    handshake = _Handshake(connection, deadline)
    try:
        handshake.log_in(proxy)
        handshake.connect(address)
    except TimeoutError:
        raise
    except OSError as error:
        where = show_address(proxy.host, proxy.port)
        raise OSError(f"the SOCKS proxy {where} does not connect: {error}") from error


class _Handshake:
    """The packets on one connection to a proxy, all within one deadline."""

    def __init__(self, connection: socket.socket, deadline: float) -> None:
        self._connection = connection
        self._deadline = deadline

    def log_in(self, proxy: ProxyUrl) -> None:
        methods = bytes((NO_PASSWORD,)) if proxy.username is None else bytes((NO_PASSWORD, PASSWORD))
        self._connection.sendall(bytes((5, len(methods))) + methods)
        version, method = self._read(2)
        if version != 5:
            raise OSError("it does not speak SOCKS 5")
        if method == NO_METHOD:
            raise OSError("it requires a user name and a password")
        if method == PASSWORD:
            name, word = (proxy.username or "").encode(), (proxy.password or "").encode()
            self._connection.sendall(b"\1" + bytes((len(name),)) + name + bytes((len(word),)) + word)
            if self._read(2)[1]:
                raise OSError("it refuses the user name and password")

    def connect(self, address: tuple[str, int]) -> None:
        host = address[0].encode() if address[0].isascii() else address[0].encode("idna")
        self._connection.sendall(b"\5\1\0\3" + bytes((len(host),)) + host + address[1].to_bytes(2, "big"))
        _, code, _, kind = self._read(4)
        if code:
            raise OSError(_REFUSALS.get(code, f"reply {code}"))
        size = _SIZES.get(kind) or self._read(1)[0]
        self._read(size + 2)

    def _read(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            self._connection.settimeout(max(0.001, self._deadline - time.monotonic()))
            more = self._connection.recv(size - len(data))
            if not more:
                raise OSError("it closed the connection")
            data += more
        return data
