"""What a broker may not send, and how much of it we take. Pure."""

from __future__ import annotations

from mqttkit.client.receiving.splitter import remaining_length

MAX_CONTROL_BYTES = 1024 * 1024
"""Largest packet other than PUBLISH: reason strings and user properties are short in practice."""
MAX_PROPERTY_BYTES = 1024 * 1024
"""Largest property section of a PUBLISH: decoded, it takes up to forty times its size."""
PUBLISH = 0x30
NAMES = (
    *("a reserved packet", "CONNECT", "CONNACK", "PUBLISH", "PUBACK", "PUBREC", "PUBREL", "PUBCOMP", "SUBSCRIBE"),
    *("SUBACK", "UNSUBSCRIBE", "UNSUBACK", "PINGREQ", "PINGRESP", "DISCONNECT", "AUTH"),
)
"""Names of the packet types (MQTT 5, 2.1.2)."""


class UnexpectedPacket(Exception):
    """The broker sent what MQTT or our limits do not allow: the connection ends."""


def check_size(first: int, size: int, max_packet: int) -> None:
    """Raise UnexpectedPacket if a packet that begins with byte `first` takes more than we keep in memory."""
    if size > max_packet:
        raise UnexpectedPacket(
            f"a packet of at least {size} bytes, more than mqtt.limits.max_packet_size ({max_packet})"
        )
    if first & 0xF0 != PUBLISH and size > MAX_CONTROL_BYTES:
        raise UnexpectedPacket(f"{NAMES[first >> 4]} of {size} bytes")


def check_order(first: int, *, accepted: bool) -> None:
    """Raise UnexpectedPacket unless CONNACK comes first, and only once (MQTT 5, 3.2)."""
    name = NAMES[first >> 4]
    if accepted and name == "CONNACK":
        raise UnexpectedPacket("a second CONNACK")
    if not accepted and name != "CONNACK":
        raise UnexpectedPacket(f"{name} in place of CONNACK")


def packet_identifier(packet: bytes | bytearray) -> int:
    """Return the identifier of a PUBLISH with QoS 1 or 2, without its fixed header; 0 if it is malformed."""
    place = 2 + int.from_bytes(packet[:2], "big")
    return int.from_bytes(packet[place : place + 2], "big")


def check_properties(first: int, packet: bytes | bytearray, *, v5: bool) -> None:
    """Raise UnexpectedPacket if the property section of a PUBLISH is too large to decode."""
    place = 2 + int.from_bytes(packet[:2], "big") + (2 if first & 6 else 0)
    if v5 and place < len(packet):
        size = remaining_length(bytes(packet[place : place + 4]), -1)[1]
        if size > MAX_PROPERTY_BYTES:
            raise UnexpectedPacket(f"PUBLISH with {size} bytes of properties")


def suback(packet: bytes | bytearray, *, v5: bool) -> tuple[int, list[int]]:
    """Return identifier and reason codes of a SUBACK or UNSUBACK (MQTT 5, 3.9): unknown ones too."""
    start = 2
    if v5:
        end, size = remaining_length(bytes(packet[:6]), 1)
        start = end + size
    if len(packet) < start or len(packet) < 2:
        raise UnexpectedPacket("a malformed SUBACK or UNSUBACK")
    return int.from_bytes(packet[:2], "big"), list(packet[start:])
