"""The chunk walk on databases built by hand: each chunk that makes no sense is refused with its place."""

from __future__ import annotations

import struct

import pytest

from mqttkit.broker.mosquitto.database import HEADER, MAGIC, NEVER, DatabaseSummary, read_database, summarise
from mqttkit.errors import UsageError


def chunk(kind: int, body: bytes) -> bytes:
    return struct.pack(">II", kind, len(body)) + body


def configuration(*, shutdown: int = 1, size: int = 8) -> bytes:
    return chunk(1, struct.pack("=QBB6x", 7, shutdown, size))


def message(
    number: int = 1,
    topic: bytes = b"a",
    payload: bytes = b"x",
    *,
    qos: int = 1,
    expiry: int = 0,
    properties: bytes = b"",
    source: bytes = b"client",
) -> bytes:
    fixed = struct.pack(">IHHHHHBB", len(payload), 0, len(source), 0, len(topic), 1883, qos, 1)
    return chunk(2, struct.pack("=Qq", number, expiry) + fixed + source + topic + payload + properties)


def client_message(number: int = 1, client: bytes = b"c", *, qos: int = 1, properties: bytes = b"") -> bytes:
    fixed = struct.pack("=Q", number) + struct.pack(">HHBBBB", 1, len(client), qos, 3, 0, 1)
    return chunk(3, fixed + client + properties)


def retained(number: int = 1) -> bytes:
    return chunk(4, struct.pack("=Q", number))


def subscription(client: bytes = b"c", topic: bytes = b"a/#", *, qos: int = 1) -> bytes:
    return chunk(5, struct.pack(">IHHBB2x", 0, len(client), len(topic), qos, 0) + client + topic)


def client(name: bytes = b"c", *, interval: int = NEVER, user: bytes = b"", version: int = 6) -> bytes:
    more = struct.pack(">HH4x", 1883, len(user)) if version == 6 else b""
    return chunk(6, struct.pack("=q", 0) + struct.pack(">IHH", interval, 0, len(name)) + more + name + user)


def database(*chunks: bytes, version: int = 6) -> bytes:
    return HEADER.pack(MAGIC, 0, version) + b"".join(chunks)


def test_a_sound_database_is_summed_up() -> None:
    """What never expires is counted and digested, what may expire is counted apart."""
    whole = database(
        configuration(),
        message(1, b"kept"),
        message(2, b"brief", expiry=99),
        message(3, b"queued", properties=b"\x02\x01\x01"),
        client(b"c", user=b"anna"),
        client(b"leaver", interval=60),
        client_message(3),
        subscription(b"c"),
        subscription(b"leaver"),
        retained(1),
        retained(2),
    )
    summary = summarise(read_database(whole))
    assert (summary.retained, summary.sessions, summary.expiring) == (1, 1, 2)


def test_the_order_of_chunks_does_not_matter_to_the_summary() -> None:
    """mosquitto writes what it loaded in another order, with other identifiers."""
    one = database(configuration(), message(1, b"a"), message(2, b"b"), retained(1), retained(2))
    two = database(configuration(shutdown=0), message(8, b"b"), message(9, b"a"), retained(9), retained(8))
    assert summarise(read_database(one)) == summarise(read_database(two))


def test_format_5_has_shorter_client_chunks() -> None:
    """As mosquitto 1.6 wrote them."""
    found = read_database(database(configuration(), client(b"c", version=5), subscription(), version=5))
    assert set(found.sessions) == {"c"}


@pytest.mark.parametrize(
    ("chunks", "reason"),
    [
        ([message()], "must come first"),
        ([configuration(), configuration()], "must come first"),
        ([configuration(size=4)], "configuration chunk is invalid"),
        ([configuration(shutdown=2)], "configuration chunk is invalid"),
        ([chunk(1, b"short")], "byte 23"),
        ([configuration(), message(qos=3)], "message chunk is invalid"),
        ([configuration(), message(1), message(1)], "message chunk is invalid"),
        ([configuration(), message(topic=b"a/+")], "invalid topic name"),
        ([configuration(), message(topic=b"")], "invalid topic name"),
        ([configuration(), message(topic=b"\xff")], "not UTF-8"),
        ([configuration(), message(topic=b"a\0b")], "contains NUL"),
        ([configuration(), message(properties=b"\x05\x01")], "properties do not fill"),
        ([configuration(), message(properties=b"\xff\xff\xff\xff\xff")], "properties do not fill"),
        ([configuration(), client_message()], "is missing"),
        ([configuration(), message(), client_message(qos=3)], "client message chunk is invalid"),
        ([configuration(), retained()], "retained message is missing"),
        ([configuration(), message(), retained(), retained()], "a duplicate"),
        ([configuration(), subscription()], "no session"),
        ([configuration(), client(), subscription(topic=b"")], "no session"),
        ([configuration(), client(), subscription(qos=3)], "subscription chunk is invalid"),
        ([configuration(), client(), client()], "duplicate"),
        ([configuration(), client(b"")], "without a client identifier"),
        ([configuration(), chunk(6, client()[8:] + b"more")], "client chunk is invalid"),
    ],
)
def test_a_chunk_that_makes_no_sense_is_refused(chunks: list[bytes], reason: str) -> None:
    """With the reason, and the byte at which it stands."""
    with pytest.raises(UsageError, match=reason):
        read_database(database(*chunks))


SOUND = configuration() + message() + retained()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "0 bytes are less than a header"),
        (HEADER.pack(MAGIC, 0, 6)[:-1], "bytes are less than a header"),
        (HEADER.pack(b"x" * len(MAGIC), 0, 6), "not a mosquitto database"),
        (HEADER.pack(MAGIC, 0, 4), "format 4; mqttkit reads"),
        (HEADER.pack(MAGIC, 0, 6), "it has no chunk"),
        (database(SOUND)[:-1], "needs 8 bytes"),
        (database(SOUND) + b"\0" * 7, "ends within the chunk at byte"),
        (database(SOUND, chunk(9, b"")), "no chunk has type 9"),
    ],
)
def test_a_file_that_is_no_whole_database_is_refused(data: bytes, reason: str) -> None:
    """mosquitto itself loads some of these without a word."""
    with pytest.raises(UsageError, match=reason):
        read_database(data)


def test_what_waits_for_a_session_that_may_expire_is_not_compared() -> None:
    """Nor is a message that may expire: both may be gone when the backup is verified."""
    lasting = [configuration(), message(), client(), subscription(), client_message()]
    passing = [message(2, expiry=99), client_message(2), client(b"d", interval=60), client_message(1, b"d")]
    without = summarise(read_database(database(*lasting)))
    found = summarise(read_database(database(*lasting, *passing)))
    assert found.sessions_digest == without.sessions_digest
    assert (found.sessions, found.expiring) == (1, 1)


def test_a_summary_is_a_plain_value() -> None:
    """It goes into a manifest and comes back the same."""
    summary = summarise(read_database(database(configuration())))
    assert DatabaseSummary(**vars(summary)) == summary
