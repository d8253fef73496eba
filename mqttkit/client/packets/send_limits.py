"""Limits on what the client sends, from the properties of a CONNACK (MQTT 5, 3.2.2.3). Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mqttkit.client.packets.outbox import Outbox

MQTT_311_EXACT_WINDOW = 20
"""QoS 2 publishes in flight at a time in MQTT 3.1.1, which has no Receive Maximum: mosquitto closes a connection that
has more than its max_inflight_messages."""


def apply_limits(outbox: Outbox, properties: Mapping[str, Any], *, v5: bool) -> None:
    """Set the outbox's windows and packet size from properties by paho's names, or to MQTT's defaults."""
    outbox.window = min(outbox.limits.max_inflight, properties.get("ReceiveMaximum", 65_535))
    outbox.exact_window = outbox.window if v5 else min(outbox.window, MQTT_311_EXACT_WINDOW)
    outbox.max_packet = properties.get("MaximumPacketSize", 0)
