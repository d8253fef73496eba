"""Read mosquitto's database file chunk by chunk (formats 5 and 6, of mosquitto 1.6 to 2.0). Pure.

The file has 15 bytes of magic, a CRC that is always 0, a big-endian version, and then chunks of type, length and
body. It has no checksum: mosquitto loads flipped bytes and files that end between two chunks without an error. So
every length and every reference is checked here, and backups are compared by their `DatabaseSummary`.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable
from dataclasses import dataclass, field

from mqttkit.errors import UsageError

MAGIC = b"\x00\xb5\x00mosquitto db"
HEADER = struct.Struct(">15sII")
CHUNK = struct.Struct(">II")
CONFIGURATION, MESSAGE, CLIENT_MESSAGE, RETAINED, SUBSCRIPTION, CLIENT = range(1, 7)
VERSIONS = (5, 6)
NEVER = 0xFFFF_FFFF
"""Session expiry interval of a session that never ends (MQTT 5, 3.1.2.11.2)."""
# Fixed parts. Numbers are big-endian, except identifiers and times, which have the machine's byte order.
_IDENTIFIER = struct.Struct("=Q")
_CONFIGURATION = struct.Struct("=QBB6x")
_MESSAGE = struct.Struct(">IHHHHHBB")
_MESSAGE_HEAD = struct.Struct("=Qq")
_CLIENT_MESSAGE = struct.Struct(">HHBBBB")
_SUBSCRIPTION = struct.Struct(">IHHBB2x")
_CLIENT = {5: struct.Struct(">IHH"), 6: struct.Struct(">IHHHH4x")}


@dataclass(frozen=True)
class StoredMessage:
    """One message of the database."""

    topic: str
    """Topic name."""
    payload: bytes = field(repr=False)
    """Payload."""
    qos: int
    """Quality of service."""
    expiry: int
    """Seconds since the epoch at which it expires; 0 for never."""


@dataclass(frozen=True)
class Session:
    """One session that the broker keeps."""

    client_id: str
    """Client identifier."""
    expires: bool
    """Whether it ends some time after the client disconnects."""


@dataclass
class BrokerDatabase:
    """The contents of a database file."""

    version: int
    """Format."""
    shutdown: bool = False
    """Whether the broker wrote it when it stopped."""
    messages: dict[int, StoredMessage] = field(default_factory=dict)
    """Each message by its identifier."""
    retained: set[int] = field(default_factory=set)
    """Identifiers of retained messages."""
    sessions: dict[str, Session] = field(default_factory=dict)
    """Each session by client identifier."""
    subscriptions: list[tuple[str, str, int]] = field(default_factory=list)
    """Client identifier, topic filter and QoS."""
    queued: list[tuple[str, int]] = field(default_factory=list)
    """Client identifier and message identifier of each message queued for a client."""


@dataclass(frozen=True, kw_only=True)
class DatabaseSummary:
    """The comparable part of a database; the digests omit messages and sessions that may expire."""

    retained: int
    """Number of retained messages that never expire."""
    retained_digest: str
    """SHA-256 over their topics, QoS and payloads."""
    sessions: int
    """Number of sessions that never expire."""
    sessions_digest: str
    """SHA-256 over their client identifiers, subscriptions, and topics and payloads of queued messages."""
    expiring: int
    """Number of retained messages and sessions that may expire."""


def read_database(data: bytes) -> BrokerDatabase:
    """Read the complete file; raise UsageError with the offset of the first error."""
    database = BrokerDatabase(_check_header(data))
    offset, first = HEADER.size, True
    while offset < len(data):
        kind, body, after = _chunk(data, offset)
        try:
            _check_order(first=first, kind=kind)
            _READERS[kind](database, body)
        except (ValueError, KeyError, struct.error) as error:
            raise UsageError(f"the database is damaged at byte {offset}: {error}") from error
        offset, first = after, False
    if first:
        raise UsageError("the database is truncated: it has no chunk")
    return database


def count_retained(data: bytes) -> int:
    """Return the number of retained messages; raise UsageError if the file is empty, truncated or not a database.

    This reads only the heads of the chunks, so that it is quick for a large database too.
    """
    if not data:
        raise UsageError("the database is empty")
    _check_header(data)
    offset, retained = HEADER.size, 0
    while offset < len(data):
        kind, _, offset = _chunk(data, offset)
        retained += kind == RETAINED
    if offset == HEADER.size:
        raise UsageError("the database is truncated: it has no chunk")
    return retained


def summarise(database: BrokerDatabase) -> DatabaseSummary:
    """Return counts and digests for a comparison."""
    lasting = [database.messages[number] for number in database.retained if not database.messages[number].expiry]
    sessions = [session for session in database.sessions.values() if not session.expires]
    kept = {session.client_id for session in sessions}
    lines = [f"session {client}" for client in kept]
    lines += [f"{client} subscribes {wanted} {qos}" for client, wanted, qos in database.subscriptions if client in kept]
    for client, number in database.queued:
        message = database.messages[number]
        if client in kept and not message.expiry:
            lines.append(f"{client} awaits {_message_line(message)}")
    return DatabaseSummary(
        retained=len(lasting),
        retained_digest=_digest([_message_line(message) for message in lasting]),
        sessions=len(sessions),
        sessions_digest=_digest(lines),
        expiring=len(database.retained) - len(lasting) + len(database.sessions) - len(sessions),
    )


def _check_header(data: bytes) -> int:
    """Return the version of the format; raise UsageError."""
    if len(data) < HEADER.size:
        raise UsageError(f"the database is truncated: {len(data)} bytes are less than a header")
    magic, _, version = HEADER.unpack_from(data)
    if magic != MAGIC:
        raise UsageError("this is not a mosquitto database: it begins differently")
    if version not in VERSIONS:
        raise UsageError(f"the database has format {version}; mqttkit reads {VERSIONS[0]} and {VERSIONS[1]}")
    return int(version)


def _check_order(*, first: bool, kind: int) -> None:
    if first is not (kind == CONFIGURATION):
        raise ValueError("the configuration chunk must come first, and only once")


def _chunk(data: bytes, offset: int) -> tuple[int, memoryview, int]:
    begin = offset + CHUNK.size
    if begin > len(data):
        raise UsageError(f"the database is truncated: it ends within the chunk at byte {offset}")
    kind, length = CHUNK.unpack_from(data, offset)
    if kind not in _READERS:
        raise UsageError(f"the database is damaged at byte {offset}: no chunk has type {kind}")
    if begin + length > len(data):
        raise UsageError(f"the database is truncated: the chunk at byte {offset} needs {length} bytes")
    return kind, memoryview(data)[begin : begin + length], begin + length


def _read_configuration(database: BrokerDatabase, body: memoryview) -> None:
    _, shutdown, size = _CONFIGURATION.unpack(body)
    if size != _IDENTIFIER.size or shutdown > 1:
        raise ValueError("the configuration chunk is invalid")
    database.shutdown = bool(shutdown)


def _read_message(database: BrokerDatabase, body: memoryview) -> None:
    number, expiry = _MESSAGE_HEAD.unpack_from(body)
    length, _, source, user, topic, _, qos, retain = _MESSAGE.unpack_from(body, _MESSAGE_HEAD.size)
    rest = body[_MESSAGE_HEAD.size + _MESSAGE.size + source + user :]
    if len(rest) < topic + length or qos > 2 or retain > 1 or number in database.messages or expiry < 0:
        raise ValueError("the message chunk is invalid")
    name = _text(rest[:topic], "topic name")
    if not name or "+" in name or "#" in name:
        raise ValueError("a message has an invalid topic name")
    payload = bytes(rest[topic : topic + length])
    _check_properties(rest[topic + length :])
    database.messages[number] = StoredMessage(name, payload, qos, expiry)


def _read_client_message(database: BrokerDatabase, body: memoryview) -> None:
    (number,) = _IDENTIFIER.unpack_from(body)
    _, length, qos, state, retain, direction = _CLIENT_MESSAGE.unpack_from(body, _IDENTIFIER.size)
    rest = body[_IDENTIFIER.size + _CLIENT_MESSAGE.size :]
    client = _text(rest[:length], "client identifier")
    if len(rest) < length or qos > 2 or direction > 1 or state > 20 or retain & 0x0F > 1:
        raise ValueError("the client message chunk is invalid")
    if number not in database.messages:
        raise ValueError(f"a message that is queued for {client!r} is missing")
    _check_properties(rest[length:])
    database.queued.append((client, number))


def _read_retained(database: BrokerDatabase, body: memoryview) -> None:
    (number,) = _IDENTIFIER.unpack(body)
    if number not in database.messages or number in database.retained:
        raise ValueError("a retained message is missing or a duplicate")
    database.retained.add(number)


def _read_subscription(database: BrokerDatabase, body: memoryview) -> None:
    _, client_length, topic_length, qos, options = _SUBSCRIPTION.unpack_from(body)
    rest = body[_SUBSCRIPTION.size :]
    if len(rest) != client_length + topic_length or qos > 2 or options & 0xC3:
        raise ValueError("the subscription chunk is invalid")
    client, wanted = _text(rest[:client_length], "client identifier"), _text(rest[client_length:], "topic filter")
    if client not in database.sessions or not wanted:
        raise ValueError(f"a subscription of {client!r}, which has no session")
    database.subscriptions.append((client, wanted, qos))


def _read_client(database: BrokerDatabase, body: memoryview) -> None:
    fixed = _CLIENT[database.version]
    interval, _, length, *more = fixed.unpack_from(body, _IDENTIFIER.size)
    rest = body[_IDENTIFIER.size + fixed.size :]
    if len(rest) != length + (more[1] if more else 0):
        raise ValueError("the client chunk is invalid")
    client = _text(rest[:length], "client identifier")
    if not client or client in database.sessions:
        raise ValueError("a session without a client identifier, or a duplicate")
    _text(rest[length:], "user name")
    database.sessions[client] = Session(client, interval != NEVER)


_READERS: dict[int, Callable[[BrokerDatabase, memoryview], None]] = {
    CONFIGURATION: _read_configuration,
    MESSAGE: _read_message,
    CLIENT_MESSAGE: _read_client_message,
    RETAINED: _read_retained,
    SUBSCRIPTION: _read_subscription,
    CLIENT: _read_client,
}


def _check_properties(rest: memoryview) -> None:
    """Raise ValueError unless the rest of a chunk is one list of MQTT 5 properties, its length first (2.2.2.1)."""
    if not len(rest):
        return
    length = shift = used = 0
    for byte in rest[:4]:
        length |= (byte & 0x7F) << shift
        shift, used = shift + 7, used + 1
        if byte < 0x80:
            break
    if used + length != len(rest):
        raise ValueError("the properties do not fill the chunk")


def _text(data: memoryview, what: str) -> str:
    try:
        text = str(data, "utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"a {what} is not UTF-8") from error
    if "\0" in text:
        raise ValueError(f"a {what} contains NUL")
    return text


def _message_line(message: StoredMessage) -> str:
    return f"{message.qos} {hashlib.sha256(message.payload).hexdigest()} {message.topic}"


def _digest(lines: list[str]) -> str:
    digest = hashlib.sha256()
    for line in sorted(lines):
        digest.update(line.encode() + b"\0")
    return digest.hexdigest()
