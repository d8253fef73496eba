"""MQTT packets as bytes, for tests that play the peer."""

from __future__ import annotations


def encode_length(value: int) -> bytes:
    """Encode a remaining length (MQTT 5, 1.5.5)."""
    encoded = bytearray()
    while value > 127:
        encoded.append(value & 127 | 128)
        value >>= 7
    return bytes((*encoded, value))


def packet(first: int, body: bytes) -> bytes:
    """Return a packet of this first byte and this body."""
    return bytes((first,)) + encode_length(len(body)) + body
