"""Retained messages that only a later transport has: the first transport gets them when it is back."""

from __future__ import annotations

from mqttkit.controller.handover.pending import PendingMessage


class MissingRetained:
    """The newest retained message of each topic that the first transport has not taken. For the sender's thread."""

    def __init__(self, first: str) -> None:
        self._first = first
        """Name of the first transport."""
        self._missing: dict[str, PendingMessage] = {}

    def __bool__(self) -> bool:
        return bool(self._missing)

    def taken(self, item: PendingMessage, transport: str) -> None:
        """Record which transport has taken a retained message."""
        if transport != self._first:
            self._missing[item.topic] = item
            return
        missing = self._missing.get(item.topic)
        if missing is not None and missing.envelope.sequence <= item.envelope.sequence:
            del self._missing[item.topic]

    def take(self) -> list[PendingMessage]:
        """Remove the messages and return a copy of each, to be sent by the first transport."""
        missing, self._missing = self._missing, {}
        return [
            PendingMessage(one.envelope, one.topic, retain=True, qos=one.qos, data=one.data) for one in missing.values()
        ]
