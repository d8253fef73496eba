"""The batched client against plain paho: same bytes in, same messages, acknowledgements and errors out."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager

from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from mqttkit.client.receiving.splitter import remaining_length
from mqttkit.client.receiving.unexpected import UnexpectedPacket
from tests.support.packets import packet
from tests.unit.client.harness import BatchedSide, PlainSide

PUBLISHES = 6
MIDS = st.integers(0, PUBLISHES + 2) | st.integers(0, 65_535)
PROPERTY_SECTIONS = st.sampled_from(
    [
        b"\x00",
        b"\x80\x00",
        b"\x02\x01\x01",
        b"\x05\x02\x00\x00\x00\x3c",
        b"\x02\x0b\x07",
        b"\x06\x0b\x07\x0b\xff\xff\x03",
        b"\x07\x26\x00\x01a\x00\x01b",
        b"\x06\x03\x00\x03abc",
        b"\x05\x09\x00\x02\xff\x00",
        b"\x04\x01\x01\x01\x01",
        b"\x02\x01\x02",
        b"\x01\x01",
        b"\x03\x11\x00\x00",
        b"\x05\x03\x00\x02\xff\xff",
        b"\xff\xff\xff\xff\x01",
    ]
)


@st.composite
def publish_packets(draw: st.DrawFn, v5: bool) -> bytes:
    """PUBLISH packets, most of them well formed."""
    first = 0x30 | draw(st.integers(0, 15))
    topic = draw(st.binary(max_size=6) | st.sampled_from([b"a/b", "hé".encode(), b"\xff", b"a\0b"]))
    body = len(topic).to_bytes(2, "big") + topic
    if first & 6:
        body += draw(MIDS).to_bytes(2, "big")
    if v5:
        body += draw(PROPERTY_SECTIONS)
    body += draw(st.binary(max_size=20) | st.sampled_from([b"x" * 130, b"y" * 20_000]))
    cut = draw(st.sampled_from([0] * 8 + [1, 3, 5]))
    body = body[: len(body) - cut] if cut else body
    return packet(first, body)


@st.composite
def small_packets(draw: st.DrawFn, v5: bool) -> bytes:
    """Acknowledgements and answers, most of them well formed."""
    first = draw(st.sampled_from([0x40, 0x40, 0x40, 0x41, 0x50, 0x62, 0x70, 0xB0, 0x90, 0xD0, 0xE0, 0xF0, 0x10]))
    body = b"" if first == 0xD0 else draw(MIDS).to_bytes(2, "big")
    if first in (0x90, 0xB0):
        body += (b"\0" if v5 else b"") + b"\x01"
    elif v5 and first != 0xD0:
        codes = [b"", b"\0", b"\x10", b"\x80", b"\x87", b"\x97", b"\x05", b"\0\0", b"\x87\x05\x1f\x00\x02no"]
        body += draw(st.sampled_from(codes))
    body += draw(st.sampled_from([b""] * 9 + [b"\x00", b"ab"]))
    return packet(first, body)


def streams(v5: bool) -> st.SearchStrategy[bytes]:
    """Bytes of several packets, some of them garbage."""
    garbage = st.binary(max_size=8) | st.just(b"\x30\xff\xff\xff\xff\xff\x01") | st.just(b"\x40\x82\x00\x00\x01")
    packet = publish_packets(v5) | publish_packets(v5) | small_packets(v5) | garbage
    return st.lists(packet, max_size=12).map(b"".join)


@contextmanager
def pair(*, v5: bool, manual_ack: bool = False) -> Iterator[tuple[PlainSide, BatchedSide]]:
    """Both clients, connected, each with publishes under way."""
    plain, batched = PlainSide(v5=v5, manual_ack=manual_ack), BatchedSide(v5=v5, manual_ack=manual_ack)
    try:
        for _ in range(PUBLISHES):
            plain.publish(1)
            batched.publish(1)
        assert plain.sent() == batched.sent()
        yield plain, batched
    finally:
        plain.close()
        batched.close()


def packets_by_type(data: bytes) -> dict[int, list[bytes]]:
    """Sort what a client sent by packet type, each type in its order."""
    found: dict[int, list[bytes]] = {}
    position = 0
    while position < len(data):
        start, size = remaining_length(data, position)
        found.setdefault(data[position] >> 4, []).append(data[position : start + size])
        position = start + size
    return found


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    """Cut data at places, taken modulo its length."""
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[a:b] for a, b in itertools.pairwise(places)]


def has_type_0(data: bytes) -> bool:
    """Tell whether a packet begins with a byte 0, before another one ends the connection or the data."""
    position = 0
    while position < len(data):
        if not data[position]:
            return True
        start, size = remaining_length(data, position)
        position = start + size
    return False


def assert_same(v5: bool, data: bytes, cuts: list[int], manual_ack: bool) -> None:
    """Feed both; everything that can be seen from outside is the same."""
    with pair(v5=v5, manual_ack=manual_ack) as (plain, batched):
        assume(not has_type_0(data))  # paho takes a first byte of 0 for none, and reads another one after a cut
        plain.feed(pieces(data, cuts))
        assume(not plain.confused)
        try:
            batched.feed(pieces(data, cuts))
        except UnexpectedPacket:
            assume(False)  # paho takes it: see test_unexpected_packets.py
        assert batched.messages == plain.messages
        assert batched.ended == plain.ended
        assert (batched.client._sock is None) == (plain.client._sock is None)
        assert batched.acknowledged() == {entry for kind, entry in plain.answered if kind == "pub"}
        assert batched.answered == [(kind, entry) for kind, entry in plain.answered if kind != "pub"]
        assert packets_by_type(batched.sent()) == packets_by_type(plain.sent())


@settings(max_examples=60, deadline=None)
@given(streams(v5=False), st.lists(st.integers(0, 100_000), max_size=8), st.booleans())
@example(b"\x30\xff\xff\xff\xff\xff\x01", [2, 5], False)
@example(b"\x32\x04\x00\x01a\x00\x32\x05\x00\x01a\x00\x07", [], False)
def test_mqtt_311_like_plain_paho(data: bytes, cuts: list[int], manual_ack: bool) -> None:
    """MQTT 3.1.1: arbitrary packets cut at arbitrary bytes."""
    assert_same(False, data, cuts, manual_ack)


@settings(max_examples=80, deadline=None)
@given(streams(v5=True), st.lists(st.integers(0, 100_000), max_size=8), st.booleans())
@example(b"\x40\x03\x00\x01\x05", [], False)
@example(b"\x40\x03\x00\x01\x87\x30\x05\x00\x01a\x00b", [3], False)
def test_mqtt_5_like_plain_paho(data: bytes, cuts: list[int], manual_ack: bool) -> None:
    """MQTT 5: arbitrary packets with properties cut at arbitrary bytes."""
    assert_same(True, data, cuts, manual_ack)


@settings(max_examples=10, deadline=None)
@given(st.booleans(), streams(v5=True))
def test_one_byte_at_a_time(v5: bool, data: bytes) -> None:
    """The worst cut of all."""
    data = data[:400]
    assert_same(v5, data, list(range(len(data))), False)
