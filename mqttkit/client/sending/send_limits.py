"""What the broker accepts, from the properties of its CONNACK (MQTT 5, 3.2.2.3). Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

MQTT_311_EXACT_WINDOW = 20
"""QoS 2 publishes in flight at a time in MQTT 3.1.1, which has no Receive Maximum: mosquitto closes a connection that
has more than its max_inflight_messages."""
NO_WILDCARDS, NO_SHARED = 0xA2, 0x9E
"""Reason codes of a SUBACK (MQTT 5, 3.9.3)."""


class BrokerLimits(NamedTuple):
    """What the broker accepts; by default everything that MQTT has."""

    max_qos: int = 2
    """Highest QoS of a publish."""
    retain: bool = True
    wildcards: bool = True
    """Topic filters with + and #."""
    shared: bool = True
    """Topic filters that begin with $share/."""
    max_packet: int = 0
    """Largest packet, bytes; 0 for any."""
    window: int = 65_535
    """QoS 1 and 2 publishes in flight at a time: Receive Maximum."""
    exact_window: int = 65_535
    """Of those, QoS 2."""
    topic_aliases: int = 0
    """Highest topic alias of a publish: Topic Alias Maximum."""

    @property
    def restricted(self) -> bool:
        """True if some publishes must not be sent."""
        return self.max_qos < 2 or not self.retain or self.max_packet > 0

    def refusal(self, qos: int, retain: bool, size: int) -> str:
        """Return why a publish of `size` bytes must not be sent; empty if it may."""
        if qos > self.max_qos:
            return f"the broker takes QoS {self.max_qos} at most"
        if retain and not self.retain:
            return "the broker keeps no retained messages"
        if self.max_packet and size > self.max_packet:
            return f"larger than the broker's {self.max_packet} bytes"
        return ""

    def denial(self, topic_filter: str) -> int:
        """Return the reason code with which the broker would deny a topic filter; 0 if it may grant it."""
        if not self.shared and topic_filter.startswith("$share/"):
            return NO_SHARED
        return 0 if self.wildcards or not set("+#") & set(topic_filter) else NO_WILDCARDS


def broker_limits(properties: Mapping[str, Any], *, v5: bool) -> BrokerLimits:
    """Return the limits from properties by paho's names."""
    return BrokerLimits(
        max_qos=properties.get("MaximumQoS", 2),
        retain=bool(properties.get("RetainAvailable", 1)),
        wildcards=bool(properties.get("WildcardSubscriptionAvailable", 1)),
        shared=bool(properties.get("SharedSubscriptionAvailable", 1)),
        max_packet=properties.get("MaximumPacketSize", 0),
        window=properties.get("ReceiveMaximum", 65_535),
        exact_window=65_535 if v5 else MQTT_311_EXACT_WINDOW,
        topic_aliases=properties.get("TopicAliasMaximum", 0),
    )


def hint(reason: str) -> str:
    """Return what to do about a `refusal`."""
    if reason.startswith("the broker takes QoS"):
        return f"Use -q {reason.split()[4]}"
    return "Leave out -r" if reason.startswith("the broker keeps no retained") else ""


def clamp_packet_size(packet: bytearray) -> None:
    """Lower a Maximum Packet Size in the body of a CONNACK to the largest that paho decodes.

    Every value of four bytes but 0 is legal (3.2.2.3.6).
    """
    place = _find_property(packet, 0x27)
    if place and int.from_bytes(packet[place : place + 4], "big") > 268_435_455:
        packet[place : place + 4] = (268_435_455).to_bytes(4, "big")


def _find_property(packet: bytearray, wanted: int) -> int:
    """Return where the value of a property begins in the body of a CONNACK; 0 if it is missing."""
    sizes = {0x11: 4, 0x27: 4, 0x21: 2, 0x22: 2, 0x13: 2, 0x24: 1, 0x25: 1, 0x28: 1, 0x29: 1, 0x2A: 1}
    place = next((index + 1 for index in range(2, min(6, len(packet))) if packet[index] < 128), len(packet))
    while place < len(packet):
        identifier, place = packet[place], place + 1
        if identifier == wanted:
            return place
        for _ in range(2 if identifier == 0x26 else 1):  # user properties are pairs
            place += sizes.get(identifier) or 2 + int.from_bytes(packet[place : place + 2], "big")
    return 0
