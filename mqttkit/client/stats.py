"""Counters of a client."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from mqttkit.messages import Outcome


@dataclass
class ClientStats:
    """Counters of a client since it was created. `MqttClient.stats` returns a copy, which does not change."""

    connects: int = 0
    """CONNACKs that accepted the connection."""
    disconnects: int = 0
    """Accepted connections that ended, whoever ended them."""
    refusals: int = 0
    """CONNACKs that refused the connection."""
    received: int = 0
    """Messages received."""
    sent_bytes: int = 0
    """Bytes of packets that the operating system, TLS or the WebSocket has taken."""
    handler_errors: int = 0
    """Exceptions that a handler raised."""
    published: Counter[Outcome] = field(default_factory=Counter)
    """Publishes whose outcome is known, by outcome."""
    dropped: Counter[str] = field(default_factory=Counter)
    """Dropped publishes, by cause."""
