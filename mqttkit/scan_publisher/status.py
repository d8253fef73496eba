"""The retained status of a scanner."""

from __future__ import annotations

from mqttkit.client import MqttClient, Receipt
from mqttkit.messages import Will

ONLINE, OFFLINE = b"online", b"offline"


class StatusTopic:
    """Keeps a retained `online` or `offline` on a topic: by will, after each connection and each change."""

    def __init__(self, topic: str) -> None:
        self.topic = topic
        self._shown: tuple[bytes, int] | None = None

    @property
    def will(self) -> Will:
        """The will that the broker publishes if the connection is lost."""
        return Will(self.topic, OFFLINE, qos=1, retain=True)

    def show(self, client: MqttClient, *, online: bool) -> Receipt | None:
        """Publish the state if it has changed or the connection is new; otherwise return None."""
        state = (ONLINE if online else OFFLINE, client.stats.connects)
        if state == self._shown or not client.connected:
            return None
        self._shown = state
        return client.publish(self.topic, state[0], qos=1, retain=True)
