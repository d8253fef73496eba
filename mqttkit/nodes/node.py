"""The base of every node: a client with the node's identifier."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import TracebackType
from typing import TypeVar

from mqttkit.client import MqttClient
from mqttkit.messages import Message
from mqttkit.settings import MqttSettings
from mqttkit.topics import check_level

Self = TypeVar("Self", bound="Node")


class Node:
    """One client. As a context manager it connects and disconnects.

    `on_messages` gets what is received, in the network thread.
    """

    def __init__(
        self, node_id: str, mqtt: MqttSettings, *, on_messages: Callable[[list[Message]], None] | None = None
    ) -> None:
        self.node_id = check_level(node_id, "node id")
        session = replace(mqtt.client, client_id=node_id)
        self.client = MqttClient(replace(mqtt, client=session), on_messages=on_messages)

    def connect_mqtt(self, timeout: float | None = 10.0) -> None:
        """Connect and wait for the broker up to `timeout` seconds; raise BrokerUnreachable, ConnectionRefused."""
        self.client.connect(timeout=timeout)

    def disconnect_mqtt(self) -> None:
        """Wait for what is under way for up to 5 s, then disconnect. Idempotent."""
        self.client.close()

    def __enter__(self: Self) -> Self:
        try:
            self.connect_mqtt()
        except BaseException:
            self.disconnect_mqtt()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.disconnect_mqtt()
