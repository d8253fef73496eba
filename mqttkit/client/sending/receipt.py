"""The outcome of one publish."""

from __future__ import annotations

import threading

from mqttkit.errors import PublishDenied, PublishLost
from mqttkit.messages import Outcome


class Receipt:
    """The outcome of one publish; `outcome` is None until it is known. Any thread may read it."""

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
        """Encoded MQTT 5 properties, their length first; empty if there are none."""
        self.outcome: Outcome | None = None
        self.reason = ""
        """Why the message was denied, dropped or lost; empty if it was not."""
        self.code = 0
        """Reason code of the acknowledgement (MQTT 5, 3.4.2.1)."""

    @property
    def done(self) -> bool:
        """True once the outcome is known."""
        return self.outcome is not None

    @property
    def ok(self) -> bool:
        """True if the broker acknowledged the message, or if it was sent at QoS 0."""
        return self.outcome in (Outcome.ACKNOWLEDGED, Outcome.SENT)

    def wait(self, timeout: float | None = None) -> Outcome | None:
        """Wait up to `timeout` seconds and return the outcome, or None if it is still unknown.

        Never raises. Blocks, so do not call it in a handler: handlers run in the network thread.
        """
        if self.outcome is None:
            with self._condition:
                self._condition.wait_for(lambda: self.outcome is not None, timeout)
        return self.outcome

    def result(self, timeout: float | None = None) -> Outcome:
        """Wait up to `timeout` seconds and return ACKNOWLEDGED, or SENT at QoS 0.

        Raises PublishDenied if the broker rejects the message, PublishLost if it was dropped or the connection ended
        before the acknowledgement, and TimeoutError if the outcome is still unknown. Blocks like `wait`.
        """
        outcome = self.wait(timeout)
        topic = self.topic[2:].decode()
        if outcome is None:
            raise TimeoutError(f"no acknowledgement for the publish to {topic!r} within {timeout:g} s")
        if outcome is Outcome.DENIED:
            raise PublishDenied(topic, self.reason.lower() or f"reason code 0x{self.code:02x}", code=self.code)
        if not self.ok:
            raise PublishLost(topic, self.reason)
        return outcome

    def __repr__(self) -> str:
        return f"Receipt({self.outcome.value if self.outcome else 'pending'}{', ' * bool(self.reason)}{self.reason})"
