"""A small MQTT probe on a plain socket: one CONNECT, its CONNACK, one publish.

It uses no MQTT library: it builds CONNECT and reads CONNACK itself (MQTT 3.1.1 and 5, 3.1 and 3.2).
"""

from __future__ import annotations

import base64
import contextlib
import secrets
import socket
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from mqttkit.broker.profile import Profile
from mqttkit.errors import BrokerUnreachable, LifecycleError, reason_of

END_SECONDS = 1.0
"""How long a broker may take to close a connection after DISCONNECT."""
REFUSALS = {
    1: "unacceptable protocol version",
    2: "client identifier rejected",
    3: "server unavailable",
    4: "bad user name or password",
    5: "not authorised",
    0x80: "unspecified error",
    0x81: "malformed packet",
    0x82: "protocol error",
    0x84: "unsupported protocol version",
    0x85: "client identifier not valid",
    0x86: "bad user name or password",
    0x87: "not authorised",
    0x88: "server unavailable",
    0x89: "server busy",
    0x8A: "banned",
    0x8C: "bad authentication method",
    0x95: "packet too large",
    0x97: "quota exceeded",
    0x9C: "use another server",
    0x9D: "server moved",
    0x9F: "connection rate exceeded",
}
"""CONNACK codes: MQTT 3.1.1, 3.2.2.3 and MQTT 5, 3.2.2.2."""
NUMBER_BYTES = {0x11: 4, 0x13: 2, 0x21: 2, 0x22: 2, 0x24: 1, 0x25: 1, 0x27: 4, 0x28: 1, 0x29: 1, 0x2A: 1}
"""Width of each number property of a CONNACK (MQTT 5, 3.2.2.3); the others are strings."""
USER_PROPERTY = 0x26
CLOSED = "connection closed without a CONNACK"
"""Cause of a `BrokerUnreachable` whose broker accepted the connection and then closed or reset it."""
MAX_CONNACK = 65_536
"""A longer answer, in bytes, is not a CONNACK."""


@dataclass(frozen=True, kw_only=True)
class Login:
    """One CONNECT: the address and the user."""

    host: str
    """Address."""
    port: int
    """TCP port."""
    version: str = "311"
    """MQTT version: `311` or `5`."""
    username: str | None = None
    """User name."""
    password: str | None = field(default=None, repr=False)
    """Password."""
    tls: ssl.SSLContext | None = None
    """Context of the TLS connection; None connects without TLS."""
    timeout: float = 3.0
    """Seconds for each step."""
    client_id: str = ""
    """Client identifier; empty for a random one."""

    @property
    def address(self) -> str:
        """host:port."""
        return f"{self.host}:{self.port}"


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The broker's CONNACK."""

    code: int
    """0 is success."""
    properties: Mapping[int, int] = field(default_factory=dict)
    """MQTT 5: value of each number property by its identifier (3.2.2.3)."""

    @property
    def accepted(self) -> bool:
        """Whether the broker accepted the connection."""
        return self.code == 0

    @property
    def reason(self) -> str:
        """The code in words."""
        return "accepted" if self.accepted else REFUSALS.get(self.code, f"code {self.code}")


def operator_login(profile: Profile) -> Login:
    """Return the operator's login to the profile's plain listener, or to its TLS listener without a plain one."""
    return Login(
        host=profile.host,
        port=profile.port,
        version="5" if profile.version == "5" else "311",
        username=profile.username,
        password=profile.password,
        tls=None if profile.plain else _trusting(profile.ca_file),
    )


def _trusting(ca_file: str | None) -> ssl.SSLContext:
    """Return a context that trusts the broker's authority; raise LifecycleError if its file is missing."""
    try:
        return ssl.create_default_context(cafile=ca_file)
    except OSError as error:
        raise LifecycleError(
            f"cannot read the authority's certificate: {reason_of(error)}",
            hint="Restore it from a backup, or create another: mqttkit broker cert init --force",
        ) from error


def ask(login: Login) -> Answer:
    """Send one CONNECT and return the CONNACK; raise `BrokerUnreachable` naming the step that failed."""
    with contextlib.ExitStack() as stack:
        sock = stack.enter_context(open_socket(login))
        try:
            sock.sendall(connect_packet(login))
            answer = read_connack(sock, login.address)
        except (ConnectionResetError, BrokenPipeError) as error:
            raise BrokerUnreachable(login.address, "mqtt", CLOSED) from error
        except OSError as error:
            raise BrokerUnreachable(login.address, "mqtt", f"no CONNACK: {reason_of(error)}") from error
        if answer.accepted:
            _await_end(sock)
        return answer


def _await_end(sock: socket.socket) -> None:
    """Send DISCONNECT and wait until the broker has closed the connection (3.14.4), END_SECONDS at most.

    Otherwise rumqttd may close another connection, made on its other port in the meantime, instead of this one.
    """
    sock.settimeout(END_SECONDS)
    with contextlib.suppress(OSError):
        sock.sendall(b"\xe0\x00")
        while sock.recv(1024):
            pass


def publish(login: Login, topic: str, payload: bytes = b"") -> int:
    """Log in with MQTT 5, publish once at QoS 1 and return the PUBACK's reason code (3.4.2.1); 0x87 is denied.

    Raises `BrokerUnreachable`, also if the broker refuses the login or closes the connection instead.
    """
    login = replace(login, version="5")
    with contextlib.ExitStack() as stack:
        sock = stack.enter_context(open_socket(login))
        try:
            sock.sendall(connect_packet(login))
            answer = read_connack(sock, login.address)
            if not answer.accepted:
                raise BrokerUnreachable(login.address, "mqtt", f"login refused: {answer.reason}")
            body = _text(topic) + b"\x00\x01\x00" + payload
            sock.sendall(b"\x32" + _length(len(body)) + body)
            head = _read(sock, 4, login.address)
            code = _read(sock, head[1] - 2, login.address)[0] if head[1] > 2 else 0
            sock.sendall(b"\xe0\x00")
        except OSError as error:
            raise BrokerUnreachable(login.address, "mqtt", f"no PUBACK: {reason_of(error)}") from error
    if head[0] != 0x40:
        raise BrokerUnreachable(login.address, "mqtt", f"packet type {head[0] >> 4} instead of PUBACK")
    return code


def websocket_answer(login: Login, path: str = "/mqtt") -> str:
    """Ask for MQTT over WebSockets (RFC 6455, 4.1) and return the status line; success begins with HTTP/1.1 101.

    Raises `BrokerUnreachable` if no HTTP answer arrives.
    """
    key = base64.b64encode(secrets.token_bytes(16)).decode()
    request = (
        f"GET {path} HTTP/1.1\r\nHost: {login.address}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n"
    )
    with open_socket(login) as sock:
        try:
            sock.sendall(request.encode())
            line = sock.recv(1_024).partition(b"\r\n")[0]
        except OSError as error:
            raise BrokerUnreachable(
                login.address, "websocket", f"no answer to the upgrade: {reason_of(error)}"
            ) from error
    if not line.startswith(b"HTTP/"):
        raise BrokerUnreachable(login.address, "websocket", "no HTTP answer to the upgrade: not a WebSocket port")
    return line.decode(errors="replace")


def unverified_tls() -> ssl.SSLContext:
    """Return a context that accepts any certificate: to inspect the certificate, never to trust it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


@contextlib.contextmanager
def open_socket(login: Login) -> Iterator[socket.socket]:
    """Connect, TLS included; raise `BrokerUnreachable`. The end of the block closes the connection.

    TLS ends with close_notify (RFC 8446, 6.1), because mosquitto logs an error without it.
    """
    with _connected(login) as sock:
        try:
            yield sock
        finally:
            if isinstance(sock, ssl.SSLSocket):
                with contextlib.suppress(OSError, ValueError):
                    sock.settimeout(END_SECONDS)
                    sock.unwrap()


def _connected(login: Login) -> socket.socket:
    """Return a connected socket, TLS done; raise `BrokerUnreachable`."""
    try:
        sock = socket.create_connection((login.host, login.port), timeout=login.timeout)
    except socket.gaierror as error:
        raise BrokerUnreachable(login.address, "dns", f"{error.strerror}") from error
    except ConnectionResetError as error:  # it accepted, and closed before connect() returned
        raise BrokerUnreachable(login.address, "mqtt", CLOSED) from error
    except OSError as error:
        raise BrokerUnreachable(login.address, "tcp", reason_of(error).lower()) from error
    if login.tls is None:
        return sock
    try:
        return login.tls.wrap_socket(sock, server_hostname=login.host)
    except (OSError, ValueError) as error:
        sock.close()
        raise BrokerUnreachable(login.address, "tls", reason_of(error)) from error


def connect_packet(login: Login) -> bytes:
    """Return CONNECT with a clean session and the login's user (3.1)."""
    flags = 0x02
    payload = _text(login.client_id or f"mqttkit-{secrets.token_hex(6)}")
    if login.username is not None:
        flags |= 0x80
        payload += _text(login.username)
    if login.password is not None:
        flags |= 0x40
        payload += _text(login.password)
    level, properties = (5, b"\x00") if login.version == "5" else (4, b"")
    body = _text("MQTT") + bytes((level, flags)) + (30).to_bytes(2, "big") + properties + payload
    return b"\x10" + _length(len(body)) + body


def read_connack(sock: socket.socket, address: str) -> Answer:
    """Read the first packet, which must be CONNACK (3.2); raise `BrokerUnreachable`."""
    kind = _read(sock, 1, address)[0]
    length = _read_length(sock, address)
    if kind != 0x20 or not 2 <= length <= MAX_CONNACK:
        raise BrokerUnreachable(address, "mqtt", "the answer to CONNECT is not a CONNACK: this is not an MQTT broker")
    body = _read(sock, length, address)
    return Answer(code=body[1], properties=number_properties(body[2:]))


def number_properties(data: bytes) -> dict[int, int]:
    """Return the number properties of a CONNACK (2.2.2.2), up to the first malformed one."""
    found: dict[int, int] = {}
    size, place = _length_at(data, 0)
    data = data[: place + size]
    while place < len(data):
        identifier, place = data[place], place + 1
        if identifier in NUMBER_BYTES:
            width = NUMBER_BYTES[identifier]
            if place + width > len(data):
                break
            found[identifier] = int.from_bytes(data[place : place + width], "big")
            place += width
            continue
        for _ in range(2 if identifier == USER_PROPERTY else 1):
            place += 2 + int.from_bytes(data[place : place + 2], "big")
    return found


def _read(sock: socket.socket, count: int, address: str) -> bytes:
    data = b""
    while len(data) < count:
        chunk = sock.recv(count - len(data))
        if not chunk:
            raise BrokerUnreachable(address, "mqtt", CLOSED)
        data += chunk
    return data


def _read_length(sock: socket.socket, address: str) -> int:
    """Read a variable byte integer (1.5.5)."""
    data = b""
    while len(data) < 4:
        data += _read(sock, 1, address)
        if data[-1] < 0x80:
            break
    return _length_at(data, 0)[0]


def _length_at(data: bytes, place: int) -> tuple[int, int]:
    """Return a variable byte integer and the position after it; 0 at the end of the data."""
    value = 0
    for shift in range(4):
        if place >= len(data):
            break
        byte, place = data[place], place + 1
        value |= (byte & 0x7F) << (7 * shift)
        if byte < 0x80:
            break
    return value, place


def _text(value: str) -> bytes:
    """Return a UTF-8 encoded string with its length (1.5.4)."""
    encoded = value.encode()
    return len(encoded).to_bytes(2, "big") + encoded


def _length(value: int) -> bytes:
    """Return a variable byte integer (1.5.5)."""
    out = bytearray()
    while True:
        value, digit = divmod(value, 128)
        out.append(digit | (0x80 if value else 0))
        if not value:
            return bytes(out)
