"""Which reason codes paho can decode. A peer may send any other; from 0x80 on it is a failure (MQTT 5, 2.4). Pure."""

from __future__ import annotations

from paho.mqtt.reasoncodes import ReasonCode

DENIED = 0x80
"""Reason codes from here on are failures."""
MAX_QOS = 2
"""The highest code of a SUBACK that is not a failure."""
MAX_CONNACK_311 = 5
"""The last return code of MQTT 3.1.1's CONNACK (MQTT 3.1.1, 3.2.2.3)."""


def is_known(packet_type: int, code: int) -> bool:
    """Return whether paho knows `code` in packets of this type."""
    names = ReasonCode(packet_type).names.get(code, {})
    return any(packet_type in types for types in names.values())


def known_failure(packet_type: int, code: int) -> ReasonCode:
    """Return paho's form of a failure, Unspecified error if it does not know `code`."""
    return ReasonCode(packet_type, identifier=code if is_known(packet_type, code) else DENIED)
