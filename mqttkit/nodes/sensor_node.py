"""A simulated sensor, as a real client."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from types import TracebackType
from typing import Any

from mqttkit.client import MqttClient, Receipt
from mqttkit.settings import MqttSettings
from mqttkit.topics import check_level


class SensorNode:
    """One sensor with a connection of its own. As a context manager it connects and disconnects."""

    def __init__(self, node_id: str, mqtt: MqttSettings) -> None:
        self.node_id = check_level(node_id, "node id")
        self.client = MqttClient(replace(mqtt, client=replace(mqtt.client, client_id=node_id)))

    def connect_mqtt(self, timeout: float | None = 10.0) -> None:
        """Connect and wait for the broker up to `timeout` seconds; raise BrokerUnreachable, ConnectionRefused."""
        self.client.connect(timeout=timeout)

    def publish_reading(self, topic: str, data: Mapping[str, Any], *, qos: int = 1, wait: float = 0.0) -> Receipt:
        """Publish a reading as JSON; raise ValueError where it has no JSON form.

        Waits up to `wait` seconds for a connection and for room; what found none is dropped, and its receipt says so.
        """
        payload = json.dumps(dict(data), separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()
        return self.client.publish(topic, payload, qos=qos, wait=wait)

    def disconnect_mqtt(self) -> None:
        """Wait for what is under way for up to 5 s, then disconnect. Idempotent."""
        self.client.close()

    def __enter__(self) -> SensorNode:
        self.connect_mqtt()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.disconnect_mqtt()
