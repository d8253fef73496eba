"""Topic names and payloads as they go on the wire. Pure."""

from __future__ import annotations

import functools

from mqttkit.topics import check_topic_name


@functools.lru_cache(maxsize=4_096)
def encode_name(topic: str) -> bytes:
    """Return a checked topic name in UTF-8, its two bytes of length first (MQTT 5, 1.5.4)."""
    encoded = check_topic_name(topic).encode()
    return len(encoded).to_bytes(2, "big") + encoded


def encode_payload(payload: object) -> bytes:
    """Return the bytes of a payload; raise TypeError, with what to do, for anything but bytes and text."""
    if isinstance(payload, str):
        return payload.encode()
    if isinstance(payload, bytes | bytearray | memoryview):
        return bytes(payload)
    instead = "json.dumps(payload)" if isinstance(payload, dict | list | tuple) else "str(payload)"
    raise TypeError(f"a payload is bytes or str, not {type(payload).__name__}: publish {instead} instead")
