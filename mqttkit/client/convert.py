"""Between paho's objects and mqttkit's."""

from __future__ import annotations

from typing import Any

from mqttkit.messages import Message
from mqttkit.wire.properties import from_paho as properties_from_paho

_SUBACK_REASONS = {
    0x80: "the broker gives no reason",
    0x83: "implementation specific error",
    0x87: "not authorized",
    0x8F: "topic filter invalid",
    0x91: "packet identifier in use",
    0x97: "quota exceeded",
    0x9E: "shared subscriptions are not supported",
    0xA1: "subscription identifiers are not supported",
    0xA2: "wildcard subscriptions are not supported",
}


def suback_reason(code: int) -> str:
    """Name a SUBACK's reason code (MQTT 5, 3.9.3)."""
    return _SUBACK_REASONS.get(code, f"reason code 0x{code:02x}")


def from_paho(received: Any, epoch: int) -> Message:
    """Return a message received; a topic name that is not UTF-8 keeps its bytes as lone surrogates."""
    topic = received._topic.decode("utf-8", "surrogateescape")
    properties = properties_from_paho(received.properties)
    return Message(
        topic, received.payload, received.qos, received.retain, received.dup, received.mid, properties, epoch
    )
