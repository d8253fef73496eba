"""Reading in bulk: what is kept, what is cached, what is copied."""

from __future__ import annotations

import pytest

from mqttkit.client.packets.properties import decode, encode
from mqttkit.client.receiving import splitter as incoming
from mqttkit.client.receiving.read_buffer import ReadBuffer
from mqttkit.client.receiving.splitter import Splitter, packet_end, remaining_length
from mqttkit.messages import Message, Properties

TOPIC = b"\0\1t"


def splitter() -> Splitter:
    """Return one that awaits no acknowledgement."""
    return Splitter((), decode)


def split(data: bytes, *, v5: bool = False) -> list[Message]:
    """Return the messages of whole packets."""
    found = splitter()
    assert found.split(data, 0, v5=v5, epoch=7) == (len(data), len(data))
    return found.messages


def test_a_large_packet_is_joined_once() -> None:
    """A packet in many reads is looked at when its head is known and when it is whole, and copied in between never."""
    size = 8 << 20
    packet = b"\x30\x83\x80\x80\x04" + TOPIC + bytes(size)
    buffer, found, taken = ReadBuffer(), splitter(), 0
    for start in range(0, len(packet), 65_536):
        buffer.add(packet[start : start + 65_536])
        data = buffer.take()
        if data:
            taken += len(data)
            position, stop = found.split(data, 0, v5=False, epoch=1)
            buffer.put_back(data[position:], stop - position)
    assert taken == 65_536 + len(packet)
    assert [len(message.payload) for message in found.messages] == [size]


def test_what_is_cut_waits_for_the_rest() -> None:
    """The end that is asked for lies beyond the data, by what is missing at least."""
    packet = b"\x30\x05" + TOPIC + b"ab"
    for length in range(1, len(packet)):
        position, stop = splitter().split(packet[:length], 0, v5=False, epoch=1)
        assert position == 0
        assert length < stop <= len(packet)


def test_topics_are_decoded_once_and_the_cache_is_bounded() -> None:
    """The same text object for a repeated topic; a million topics do not fill the memory."""
    first, second = split((b"\x30\x04" + TOPIC + b"a") * 2)
    assert first.topic is second.topic
    found = splitter()
    for number in range(incoming.MAX_CACHED_TOPICS * 2 + 5):
        name = b"%06d" % number
        found.split(b"\x30\x08\x00\x06" + name, 0, v5=False, epoch=1)
    assert len(found.messages) == incoming.MAX_CACHED_TOPICS * 2 + 5
    assert len(found._topics) <= incoming.MAX_CACHED_TOPICS


def test_the_topic_cache_begins_again_once_it_is_full() -> None:
    """16,384 topics are kept; the next new one is the first of the next 16,384."""
    found = splitter()
    for number in range(16_384):
        found.split(b"\x30\x07\x00\x05%05d" % number, 0, v5=False, epoch=1)
    assert len(found._topics) == 16_384
    found.split(b"\x30\x06\x00\x04next", 0, v5=False, epoch=1)
    assert found._topics == {b"next": "next"}


def test_long_topics_are_kept_up_to_two_mebibytes() -> None:
    found = splitter()
    for number in range(6_000):
        found.split(b"\x30\x82\x04\x02\x00%0512d" % number, 0, v5=False, epoch=1)
    assert len(found.messages) == 6_000
    assert sum(map(len, found._topics)) <= incoming.MAX_CACHED_BYTES
    assert len(found._topics) == 6_000 - 4_096


def test_properties_are_decoded_once_and_the_cache_is_bounded() -> None:
    """The same value for a repeated section; large sections and many of them are not kept."""
    section = encode(Properties(content_type="text/plain"))
    packet = b"\x30" + bytes((len(TOPIC) + len(section),)) + TOPIC + section
    first, second = split(packet * 2, v5=True)
    assert first.properties is second.properties
    assert first.properties == Properties(content_type="text/plain")
    found = splitter()
    for number in range(incoming.MAX_CACHED_PROPERTIES + 5):
        section = encode(Properties(correlation_data=b"%d" % number))
        found.split(b"\x30" + bytes((len(TOPIC) + len(section),)) + TOPIC + section, 0, v5=True, epoch=1)
    assert len(found._properties) <= incoming.MAX_CACHED_PROPERTIES


def test_message_knows_its_connection_and_its_flags() -> None:
    """QoS, retain, DUP, packet identifier, epoch; a topic that is not UTF-8 keeps its bytes."""
    (message,) = split(b"\x3b\x07\x00\x02\xff\xfe\x12\x34x")
    assert message == Message("\udcff\udcfe", b"x", 1, True, True, 0x1234, None, 7)
    assert message.topic_bytes == b"\xff\xfe"
    assert not message.topic_is_valid


def test_a_plain_splitter_gives_the_same_fields_without_names() -> None:
    """Whatever the QoS, the flags and the length of the packet."""
    data = b"".join(
        bytes((first, *size)) + TOPIC + bytes((0, 7)) * (first >> 1 & 1) + b"x" * length
        for first in (0x30, 0x31, 0x32, 0x33, 0x3A)
        for length, size in ((1, (4 + (first & 2),)), (200, (0x80 | (203 + (first & 2) & 127), 1)))
    )
    plain, named = Splitter((), decode, plain=True), splitter()
    assert plain.split(data, 0, v5=False, epoch=3) == named.split(data, 0, v5=False, epoch=3) == (len(data), len(data))
    assert plain.messages == named.messages
    assert {type(message) for message in plain.messages} == {tuple}
    assert {type(message) for message in named.messages} == {Message}
    assert [message.qos for message in named.messages] == [0] * 4 + [1] * 6


def test_remaining_length_of_every_size() -> None:
    """One to four bytes; what is missing lies beyond; a fifth byte is malformed."""
    assert remaining_length(b"\x30\x7f", 0) == (2, 127)
    assert remaining_length(b"\x30\x80\x01", 0) == (3, 128)
    assert remaining_length(b"\x30\xff\xff\xff\x7f", 0) == (5, 268_435_455)
    assert sum(remaining_length(b"\x30\xff\xff", 0)) > 3
    assert remaining_length(b"\x30\xff\xff\xff\xff\x01", 0) == (6, 0)


@pytest.mark.parametrize("mid", [1, 255, 256, 0x1234, 49_151])
@pytest.mark.parametrize(("tail", "code"), [(b"", 0), (b"\x10", 0x10), (b"\x87", 0x87)])
def test_an_awaited_puback_is_an_acknowledgement(mid: int, tail: bytes, code: int) -> None:
    """Packet identifier and reason code; without a reason code it is a success (MQTT 5, 3.4.2.1)."""
    data = bytes((0x40, 2 + len(tail))) + mid.to_bytes(2, "big") + tail
    found = Splitter({mid}, decode)
    assert found.split(data, 0, v5=True, epoch=1) == (len(data), len(data))
    assert found.acknowledged == [(mid, code)]


@pytest.mark.parametrize(
    ("data", "v5"),
    [
        (b"\x40\x02\x00\x08", True),  # not awaited
        (b"\x40\x03\x00\x07\x10", False),  # 3.1.1 has no reason code
        (b"\x40\x03\x00\x07\x01", True),  # not a reason code of a PUBACK
        (b"\x40\x04\x00\x07\x00\x00", True),  # with properties
        (b"\x40\x01\x00", True),
    ],
)
def test_any_other_puback_is_left_to_paho(data: bytes, v5: bool) -> None:
    """Its checks decide."""
    found = Splitter({7}, decode)
    assert found.split(data, 0, v5=v5, epoch=1) == (0, len(data))
    assert found.acknowledged == []


@pytest.mark.parametrize(
    "packet", [b"\x30\x02\x00\x00", b"\x30\x02\x00\x01", b"\x30\x01\x00", b"\x30\x00", b"\x32\x04" + TOPIC + b"\x00"]
)
def test_a_publish_without_a_whole_topic_is_left_to_paho(packet: bytes) -> None:
    """An empty topic, or one longer than the packet, is malformed here."""
    found = splitter()
    assert found.split(packet, 0, v5=False, epoch=1) == (0, len(packet))
    assert found.messages == []


def test_the_smallest_publish_is_parsed() -> None:
    """A topic of one character, no payload, at QoS 0 and at QoS 1 with packet identifier 1."""
    assert split(b"\x30\x03" + TOPIC) == [Message("t", b"", 0, False, False, 0, None, 7)]
    assert split(b"\x31\x05" + TOPIC + b"ab") == [Message("t", b"ab", 0, True, False, 0, None, 7)]
    assert split(b"\x32\x05" + TOPIC + b"\x00\x01") == [Message("t", b"", 1, False, False, 1, None, 7)]


@pytest.mark.parametrize("size", [127, 128, 129, 256, 16_383, 16_384])
def test_a_publish_of_every_length_is_parsed(size: int) -> None:
    """Also where the first byte of the remaining length is 0x80; a packet that follows is found."""
    payload = b"x" * (size - len(TOPIC))
    length = bytes((size,)) if size < 128 else bytes((size & 127 | 128, size >> 7 & 127 | (size >= 16_384) << 7))
    packet = b"\x30" + length + (b"\x01" if size == 16_384 else b"") + TOPIC + payload
    assert [message.payload for message in split(packet * 2)] == [payload] * 2


@pytest.mark.parametrize("size", [255, 256, 511, 512, 513, 1_000])
def test_topics_of_up_to_512_bytes_are_kept(size: int) -> None:
    """A longer one is decoded each time."""
    remaining = 2 + size
    packet = b"\x30" + bytes((remaining & 127 | 128, remaining >> 7)) + size.to_bytes(2, "big") + b"t" * size
    found = splitter()
    found.split(packet, 0, v5=False, epoch=1)
    assert [message.topic for message in found.messages] == ["t" * size]
    assert list(found._topics) == ([b"t" * size] if size <= 512 else [])


@pytest.mark.parametrize(("size", "kept"), [(256, 1), (257, 0)])
def test_sections_of_up_to_256_bytes_of_properties_are_kept(size: int, kept: int) -> None:
    """Two bytes of length, one that names the property, two of its length, and the property."""
    section = encode(Properties(correlation_data=b"c" * (size - 5)))
    remaining = len(TOPIC) + len(section)
    found = splitter()
    packet = b"\x30" + bytes((remaining & 127 | 128, remaining >> 7)) + TOPIC + section
    assert found.split(packet, 0, v5=True, epoch=1) == (len(packet), len(packet))
    assert [len(raw) for raw in found._properties] == [size] * kept


def test_the_end_of_a_packet() -> None:
    """After its remaining length; beyond the data where bytes are missing; the end itself where nothing is left."""
    data = b"\x30\x05" + TOPIC + b"ab" + b"\xd0\x00" + b"\x30"
    assert packet_end(data, 0) == 7
    assert packet_end(data, 7) == 9
    assert packet_end(data, 9) == len(data) + 1
    assert packet_end(data, len(data)) == len(data)
    assert packet_end(b"\xd0\x00", 0) == 2
