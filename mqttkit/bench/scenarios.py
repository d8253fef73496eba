"""Scenarios of the Open MQTT Benchmarking suite that fit one machine, by their names.

A name is scenario-publishers-subscribers-topics-rate, or conn-tcp-connections-rate. Payload 16 bytes, QoS 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SUITE_SIZE, SUITE_QOS, SUITE_SECONDS = 16, 1, 30.0
_COMMON = {"size": SUITE_SIZE, "qos": SUITE_QOS, "duration": SUITE_SECONDS}

SUITE: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "p2p-1K-1K-1K-1K": (
        "1,000 publishers, a subscriber for each, 1,000 messages/s in all.",
        {**_COMMON, "publishers": 1_000, "subscribers": 1_000, "layout": "pairs", "rate": 1_000.0},
    ),
    "fanout-1-1K-1-1K": (
        "One publisher, 1,000 subscribers, one message/s: 1,000 deliveries/s.",
        {**_COMMON, "publishers": 1, "subscribers": 1_000, "rate": 1.0},
    ),
    "sharedsub-1K-5-1K-1K": (
        "1,000 publishers, 5 subscribers that share, 1,000 messages/s in all.",
        {**_COMMON, "publishers": 1_000, "subscribers": 5, "layout": "shared", "rate": 1_000.0},
    ),
    "conn-tcp-10k-100": (
        "10,000 idle connections, 100 new ones a second.",
        {"publishers": 0, "subscribers": 10_000, "connect_rate": 100.0, "duration": SUITE_SECONDS},
    ),
}
"""What each does, and the fields of its Plan."""
