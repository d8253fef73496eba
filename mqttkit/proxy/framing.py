"""Where packets begin and end in a stream of bytes, and what they say (MQTT 5 and 3.1.1, section 2). Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from mqttkit.errors import NotMqtt

NAMES = {
    1: "CONNECT",
    2: "CONNACK",
    3: "PUBLISH",
    4: "PUBACK",
    5: "PUBREC",
    6: "PUBREL",
    7: "PUBCOMP",
    8: "SUBSCRIBE",
    9: "SUBACK",
    10: "UNSUBSCRIBE",
    11: "UNSUBACK",
    12: "PINGREQ",
    13: "PINGRESP",
    14: "DISCONNECT",
    15: "AUTH",
}
"""Names of the packet types by number (2.1.2)."""
TYPES = {name: number for number, name in NAMES.items()}
MAX_HELD = 268_435_460
"""Bytes of the largest packet."""
SHOWN = 60
"""Bytes of a payload that a description shows."""


class Packet(NamedTuple):
    """One packet of a stream."""

    kind: int
    """Type, 1 to 15."""
    flags: int
    start: int
    """Position of its first byte in the data."""
    body: int
    """Position behind its fixed header."""
    end: int
    """Position behind its last byte."""

    @property
    def name(self) -> str:
        """The type's name."""
        return NAMES[self.kind]


def packets(data: bytes) -> Iterator[Packet]:
    """Yield the whole packets in `data`; raise NotMqtt for bytes that cannot begin a packet."""
    position, size = 0, len(data)
    while position + 2 <= size:
        first, length, multiplier, place = data[position], 0, 1, position + 1
        while True:
            if place >= size:
                return
            byte = data[place]
            length += (byte & 127) * multiplier
            place += 1
            if byte < 128:
                break
            if place - position > 4:
                raise NotMqtt("the stream holds a length of more than four bytes")
            multiplier *= 128
        if not first >> 4:
            raise NotMqtt("the stream holds a packet of type 0")
        if place + length > size:
            return
        yield Packet(first >> 4, first & 15, position, place, place + length)
        position = place + length


def describe(data: bytes, packet: Packet, *, version: int) -> str:
    """Return a packet as one line of printable text; `version` is 5 or 4 (MQTT 3.1.1)."""
    body = data[packet.body : packet.end]
    text = packet.name
    if packet.kind == TYPES["PUBLISH"]:
        return f"{text} {_publish(body, packet.flags, version)}"
    if packet.kind in (TYPES["CONNACK"],):
        return f"{text} code 0x{body[1]:02x} session_present {body[0] & 1}" if len(body) >= 2 else f"{text} malformed"
    if packet.kind in range(TYPES["PUBACK"], TYPES["UNSUBACK"] + 1) and len(body) >= 2:
        code = f" code 0x{body[2]:02x}" if packet.kind <= TYPES["PUBCOMP"] and len(body) > 2 else ""
        return f"{text} id {int.from_bytes(body[:2], 'big')}{code}"
    if packet.kind == TYPES["DISCONNECT"] and body:
        return f"{text} code 0x{body[0]:02x}"
    return text


def _publish(body: bytes, flags: int, version: int) -> str:
    qos, retain, dup = flags >> 1 & 3, flags & 1, flags >> 3
    end = 2 + int.from_bytes(body[:2], "big")
    topic, place, identifier = body[2:end], end, ""
    if qos:
        identifier = f" id {int.from_bytes(body[end : end + 2], 'big')}"
        place += 2
    if version == 5:
        place = _behind_properties(body, place)
    payload = body[place:]
    words = f"{topic.decode('utf-8', 'backslashreplace')!a} qos {qos}{identifier}"
    words += " retain" * retain + " dup" * dup
    return f"{words}, {len(payload)} bytes {payload[:SHOWN].decode('utf-8', 'backslashreplace')!a}"


def _behind_properties(body: bytes, place: int) -> int:
    length, shift = 0, 0
    for byte in body[place : place + 4]:
        place += 1
        length |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            break
    return place + length


def connect_version(data: bytes, packet: Packet) -> int:
    """Return the protocol version that a CONNECT asks for (3.1.2.2)."""
    body = data[packet.body : packet.end]
    place = 2 + int.from_bytes(body[:2], "big")
    return body[place] if place < len(body) else 4
