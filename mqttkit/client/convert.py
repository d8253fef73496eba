"""Between paho's objects and mqttkit's."""

from __future__ import annotations

from typing import Any

from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties as PahoProperties

from mqttkit.messages import Message, Properties

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

_NAMES = {
    "PayloadFormatIndicator": "payload_format_indicator",
    "MessageExpiryInterval": "message_expiry_interval",
    "ContentType": "content_type",
    "ResponseTopic": "response_topic",
    "CorrelationData": "correlation_data",
}


def suback_reason(code: int) -> str:
    """Name a SUBACK's reason code (MQTT 5, 3.9.3)."""
    return _SUBACK_REASONS.get(code, f"reason code 0x{code:02x}")


def to_paho(properties: Properties) -> PahoProperties:
    """Return paho's form of a PUBLISH's properties."""
    result = PahoProperties(PacketTypes.PUBLISH)
    for theirs, ours in _NAMES.items():
        value = getattr(properties, ours)
        if value is not None:
            setattr(result, theirs, value)
    if properties.user_properties:
        result.UserProperty = list(properties.user_properties)
    return result


def from_paho_properties(properties: Any) -> Properties | None:
    """Return a PUBLISH's properties, None where there are none."""
    if properties is None or properties.isEmpty():
        return None
    found = {ours: getattr(properties, theirs) for theirs, ours in _NAMES.items() if hasattr(properties, theirs)}
    return Properties(
        **found,
        user_properties=tuple(tuple(pair) for pair in getattr(properties, "UserProperty", ())),
        subscription_identifiers=tuple(_as_list(getattr(properties, "SubscriptionIdentifier", ()))),
        topic_alias=getattr(properties, "TopicAlias", None),
    )


def from_paho(received: Any, epoch: int) -> Message:
    """Return a message received; a topic name that is not UTF-8 keeps its bytes as lone surrogates."""
    topic = received._topic.decode("utf-8", "surrogateescape")
    properties = from_paho_properties(received.properties)
    return Message(
        topic, received.payload, received.qos, received.retain, received.dup, received.mid, properties, epoch
    )


def _as_list(value: Any) -> Any:
    return value if isinstance(value, (list, tuple)) else [value]
