"""Messages and properties of a PUBLISH: mqttkit's values, paho's objects and the bytes on the wire (3.3.2.3)."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from paho.mqtt._packet import DECODE_ERRORS
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties as PahoProperties

from mqttkit.messages import Message, Properties, Will
from mqttkit.settings import ClientSettings, PropertySettings

NEVER_EXPIRES = 0xFFFFFFFF
"""Session Expiry Interval of a session that never expires (MQTT 5, 3.1.2.11.2)."""

_NAMES = {
    "PayloadFormatIndicator": "payload_format_indicator",
    "MessageExpiryInterval": "message_expiry_interval",
    "ContentType": "content_type",
    "ResponseTopic": "response_topic",
    "CorrelationData": "correlation_data",
}


def to_paho(properties: Properties, packet: int = PacketTypes.PUBLISH) -> PahoProperties:
    """Return paho's form of what a client may send in a PUBLISH, or in a will."""
    result = PahoProperties(packet)
    for theirs, ours in _NAMES.items():
        value = getattr(properties, ours)
        if value is not None:
            setattr(result, theirs, value)
    if properties.user_properties:
        result.UserProperty = list(properties.user_properties)
    return result


def from_paho(properties: Any) -> Properties | None:
    """Return the properties that paho decoded; None if there are none."""
    if properties is None or properties.isEmpty():
        return None
    found = {ours: getattr(properties, theirs) for theirs, ours in _NAMES.items() if hasattr(properties, theirs)}
    return Properties(
        **found,
        user_properties=tuple(tuple(pair) for pair in getattr(properties, "UserProperty", ())),
        subscription_identifiers=tuple(getattr(properties, "SubscriptionIdentifier", ())),
        topic_alias=getattr(properties, "TopicAlias", None),
    )


def message_from_paho(received: Any, epoch: int) -> Message:
    """Return a message that paho decoded; a topic name that is not UTF-8 keeps its bytes as lone surrogates."""
    topic = received._topic.decode("utf-8", "surrogateescape")
    flags = (received.qos, bool(received.retain), bool(received.dup), received.mid)
    return Message(topic, bytes(received.payload), *flags, from_paho(received.properties), epoch)


@functools.lru_cache(maxsize=256)
def encode(properties: Properties, topic_aliases: int = 0) -> bytes:
    """Return the property section of a PUBLISH, its length first; nothing for no properties.

    Leave out a topic alias above `topic_aliases`, the most that the broker takes: the topic name is sent in any case.
    """
    wanted = to_paho(properties)
    if properties.topic_alias is not None and 0 < properties.topic_alias <= topic_aliases:
        wanted.TopicAlias = properties.topic_alias
    section = bytes(wanted.pack())
    return section if len(section) > 1 else b""


def unpack(section: bytes) -> PahoProperties | None:
    """Return paho's form of a property section; None if it is empty or malformed."""
    result = PahoProperties(PacketTypes.PUBLISH)
    try:
        result.unpack(section)
    except DECODE_ERRORS:
        return None
    return result


def decode(section: bytes) -> Properties | None:
    """Return mqttkit's form of a property section; None if it is empty, malformed, or has a topic alias."""
    decoded = from_paho(unpack(section))
    return None if decoded is None or decoded.topic_alias is not None else decoded


def will_properties(will: Will) -> PahoProperties | None:
    """Return the properties of a will (MQTT 5, 3.1.3.2); None if it has none."""
    properties = to_paho(will.properties or Properties(), PacketTypes.WILLMESSAGE)
    if will.delay_interval:
        properties.WillDelayInterval = will.delay_interval
    return _unless_empty(properties)


def connect_properties(settings: ClientSettings, max_packet: int, added: PropertySettings) -> PahoProperties:
    """Return the properties of our CONNECT (MQTT 5, 3.1.2.11)."""
    properties = PahoProperties(PacketTypes.CONNECT)
    properties.ReceiveMaximum = settings.receive_maximum
    properties.MaximumPacketSize = max_packet
    expiry = settings.session_expiry or (0 if settings.clean_session else NEVER_EXPIRES)
    if expiry:
        properties.SessionExpiryInterval = expiry
    if not added.request_problem_information:
        properties.RequestProblemInformation = 0
    if added.request_response_information:
        properties.RequestResponseInformation = 1
    if added.authentication_method is not None:
        properties.AuthenticationMethod = added.authentication_method
    if added.authentication_data is not None:
        properties.AuthenticationData = added.authentication_data.encode()
    return _with_pairs(properties, added.connect)


def subscribe_properties(added: PropertySettings) -> PahoProperties | None:
    """Return the properties of a SUBSCRIBE (MQTT 5, 3.8.2.1); None if it has none."""
    properties = PahoProperties(PacketTypes.SUBSCRIBE)
    if added.subscription_identifier is not None:
        properties.SubscriptionIdentifier = added.subscription_identifier
    return _unless_empty(_with_pairs(properties, added.subscribe))


def unsubscribe_properties(added: PropertySettings) -> PahoProperties | None:
    """Return the properties of an UNSUBSCRIBE (MQTT 5, 3.10.2.1); None if it has none."""
    return _unless_empty(_with_pairs(PahoProperties(PacketTypes.UNSUBSCRIBE), added.unsubscribe))


def disconnect_properties(added: PropertySettings) -> PahoProperties | None:
    """Return the properties of a DISCONNECT (MQTT 5, 3.14.2.2); None if it has none."""
    properties = PahoProperties(PacketTypes.DISCONNECT)
    if added.disconnect_expiry is not None:
        properties.SessionExpiryInterval = added.disconnect_expiry
    return _unless_empty(_with_pairs(properties, added.disconnect))


def _with_pairs(properties: PahoProperties, pairs: Sequence[str]) -> PahoProperties:
    if pairs:
        properties.UserProperty = [tuple(pair.split("=", 1)) for pair in pairs]
    return properties


def _unless_empty(properties: PahoProperties) -> PahoProperties | None:
    return None if properties.isEmpty() else properties
