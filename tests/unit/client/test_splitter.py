"""Reading in bulk: what is kept, what is cached, what is copied."""

from __future__ import annotations

from mqttkit.client.packets import splitter as incoming
from mqttkit.client.packets.properties import decode, encode
from mqttkit.client.packets.read_buffer import ReadBuffer
from mqttkit.client.packets.splitter import Splitter, remaining_length
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


def test_remaining_length_of_every_size() -> None:
    """One to four bytes; what is missing lies beyond; a fifth byte is malformed."""
    assert remaining_length(b"\x30\x7f", 0) == (2, 127)
    assert remaining_length(b"\x30\x80\x01", 0) == (3, 128)
    assert remaining_length(b"\x30\xff\xff\xff\x7f", 0) == (5, 268_435_455)
    assert sum(remaining_length(b"\x30\xff\xff", 0)) > 3
    assert remaining_length(b"\x30\xff\xff\xff\xff\x01", 0) == (6, 0)
