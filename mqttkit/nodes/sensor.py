"""A simulated sensor, as a real client."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from mqttkit.client import Receipt
from mqttkit.nodes.node import Node


class SensorNode(Node):
    """One sensor with its own connection. A `with` block connects and disconnects it."""

    def publish_reading(self, topic: str, data: Mapping[str, Any], *, qos: int = 1, wait: float = 0.0) -> Receipt:
        """Publish a reading as JSON; raise ValueError if JSON cannot express it.

        Waits up to `wait` seconds for a connection and for room; after that the outcome is `dropped`.
        """
        payload = json.dumps(dict(data), separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()
        return self.client.publish(topic, payload, qos=qos, wait=wait)
