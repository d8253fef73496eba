"""The chunk walk against databases that a real mosquitto wrote."""

from __future__ import annotations

import signal
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from mqttkit.broker.mosquitto.database import CHUNK, HEADER, BrokerDatabase, DatabaseSummary, read_database, summarise
from mqttkit.errors import UsageError
from tests.support.brokers import mosquitto
from tests.support.probe import Probe


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Iterator[bytes]:
    """A database with retained messages, sessions, subscriptions, queued messages and properties."""
    place = tmp_path_factory.mktemp("persistence")
    with mosquitto(place, "persistence true", f"persistence_location {place}/") as broker:
        keep = Properties(PacketTypes.CONNECT)
        keep.SessionExpiryInterval = 0xFFFF_FFFF
        with Probe(broker.port, client_id="sleeper", properties=keep, clean=False) as sleeper:
            sleeper.subscribe("queue/#", 1)
            sleeper.subscribe("other/+", 2)
        short = Properties(PacketTypes.CONNECT)
        short.SessionExpiryInterval = 3_600
        Probe(broker.port, client_id="leaver", properties=short, clean=False).close()
        with Probe(broker.port) as writer:
            for number in range(1, 50):
                writer.publish(f"kept/{number}/ümlaut", bytes([number]) * number, retain=True)
            writer.publish("queue/a", b"waits")
            writer.publish("queue/b", b"waits and is kept", retain=True)
            properties = Properties(PacketTypes.PUBLISH)
            properties.MessageExpiryInterval = 3_600
            properties.UserProperty = [("name", "value")]
            mid = writer.client.publish("brief", b"x", qos=1, retain=True, properties=properties).mid
            writer.pump(lambda: mid in writer._answers)
        broker.stop(signal.SIGTERM)
    yield (Path(place) / "mosquitto.db").read_bytes()


def test_everything_that_mosquitto_wrote_is_found(written: bytes) -> None:
    """Each retained message, session, subscription and queued message."""
    database = read_database(written)
    retained = {database.messages[number].topic: database.messages[number] for number in database.retained}
    assert len(retained) == 51
    assert retained["kept/7/ümlaut"].payload == b"\x07" * 7
    assert retained["brief"].expiry > 0
    assert database.shutdown
    assert not database.sessions["sleeper"].expires
    assert database.sessions["leaver"].expires
    assert sorted(database.subscriptions) == [("sleeper", "other/+", 2), ("sleeper", "queue/#", 1)]
    waiting = [database.messages[number].topic for client, number in database.queued if client == "sleeper"]
    assert sorted(waiting) == ["queue/a", "queue/b"]
    summary = summarise(database)
    assert (summary.retained, summary.sessions, summary.expiring) == (50, 1, 2)


def borders(data: bytes) -> list[int]:
    """Return the offsets between chunks."""
    found, offset = [], HEADER.size
    while offset < len(data):
        found.append(offset)
        offset += CHUNK.size + CHUNK.unpack_from(data, offset)[1]
    return found


def what(data: bytes) -> object:
    """Return the summary of a database, or None if it is invalid."""
    try:
        return summarise(read_database(data))
    except UsageError:
        return None


def test_no_cut_passes_for_the_whole(written: bytes) -> None:
    """Cut within a chunk, the walk refuses it; cut between chunks, its summary differs unless nothing is missing.

    mosquitto itself loads the latter without a word.
    """
    whole = summarise(read_database(written))
    for length in range(0, len(written), 7):
        assert what(written[:length]) != whole, length
    for border in borders(written):
        assert what(written[:border]) != whole, border
    for border in borders(written)[1:]:
        read_database(written[:border])


@given(st.data())
@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_bytes_parse_or_are_a_usage_error(written: bytes, data: st.DataObject) -> None:
    """Whatever is flipped raises nothing else; flips in what is kept change the summary or are refused."""
    position = data.draw(st.integers(0, len(written) - 1))
    flipped = bytearray(written)
    flipped[position] ^= 1 << data.draw(st.integers(0, 7))
    found = what(bytes(flipped))
    assert found is None or isinstance(found, DatabaseSummary)


def test_flipped_topics_and_payloads_are_seen(written: bytes) -> None:
    """Every byte of a topic or payload counts; mosquitto loads such a file without a word."""
    whole = summarise(read_database(written))
    for needle in (b"kept/7/", b"waits", b"sleeper", b"queue/#"):
        assert needle in written, needle
        at = written.index(needle)
        for position in range(at, at + len(needle)):
            flipped = bytearray(written)
            flipped[position] ^= 1
            assert what(bytes(flipped)) != whole, (needle, position)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "truncated"),
        (b"x" * 23, "not a mosquitto database"),
        (HEADER.pack(b"\x00\xb5\x00mosquitto db", 0, 4), "format 4"),
        (HEADER.pack(b"\x00\xb5\x00mosquitto db", 0, 6), "no chunk"),
        (HEADER.pack(b"\x00\xb5\x00mosquitto db", 0, 6) + struct.pack(">II", 9, 0), "no chunk has type 9"),
        (HEADER.pack(b"\x00\xb5\x00mosquitto db", 0, 6) + struct.pack(">IIQ", 4, 8, 1), "must come first"),
    ],
)
def test_what_is_no_database_is_named(data: bytes, reason: str) -> None:
    """Each with its reason."""
    with pytest.raises(UsageError, match=reason):
        read_database(data)


def test_an_empty_database_is_fine() -> None:
    """Nothing retained, no session."""
    assert summarise(BrokerDatabase(6)).retained == 0
