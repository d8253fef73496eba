"""The outcome of one publish."""

from __future__ import annotations

import threading

from mqttkit.messages import Outcome


class Receipt:
    """What became of one publish; `outcome` is None until that is known."""

    __slots__ = ("_condition", "code", "outcome", "payload", "properties", "qos", "reason", "retain", "size", "topic")

    def __init__(
        self,
        condition: threading.Condition,
        size: int = 0,
        topic: bytes = b"",
        payload: bytes = b"",
        qos: int = 0,
        retain: bool = False,
        properties: bytes = b"",
    ) -> None:
        self._condition = condition
        self.size = size
        """Bytes that it counts against the byte limit."""
        self.topic = topic
        """Topic name in UTF-8, its two bytes of length first."""
        self.payload = payload
        """Empty once the outcome is known."""
        self.qos = qos
        self.retain = retain
        self.properties = properties
        """Encoded MQTT 5 properties, their length first; empty for none."""
        self.outcome: Outcome | None = None
        self.reason = ""
        """Why, where the outcome is not a good one."""
        self.code = 0
        """Reason code of the acknowledgement (MQTT 5, 3.4.2.1)."""

    @property
    def done(self) -> bool:
        """True once the outcome is known."""
        return self.outcome is not None

    @property
    def ok(self) -> bool:
        """True where the message was acknowledged, or sent at QoS 0."""
        return self.outcome in (Outcome.ACKNOWLEDGED, Outcome.SENT)

    def wait(self, timeout: float | None = None) -> Outcome | None:
        """Wait up to `timeout` seconds for the outcome; None where it did not come. Not for the network thread."""
        if self.outcome is None:
            with self._condition:
                self._condition.wait_for(lambda: self.outcome is not None, timeout)
        return self.outcome

    def __repr__(self) -> str:
        return f"Receipt({self.outcome.value if self.outcome else 'under way'}{', ' * bool(self.reason)}{self.reason})"
