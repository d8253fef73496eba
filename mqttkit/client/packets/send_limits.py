"""What a broker's CONNACK grants to the outbox (MQTT 5, 3.2.2.3)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mqttkit.client.packets.outbox import Outbox

EXACT_WINDOW_V3 = 20
"""QoS 2 publishes under way at a time in MQTT 3.1.1, which knows no Receive Maximum: mosquitto ends a connection
that has more than its max_inflight_messages."""


def apply(outbox: Outbox, granted: Mapping[str, Any], *, v5: bool) -> None:
    """Set window and packet size from the properties by paho's names; nothing granted is MQTT's default."""
    outbox.window = min(outbox.limits.max_inflight, granted.get("ReceiveMaximum", 65_535))
    outbox.exact_window = outbox.window if v5 else min(outbox.window, EXACT_WINDOW_V3)
    outbox.max_packet = granted.get("MaximumPacketSize", 0)
