"""Receipts: the addressee of a report tells its sender, signed, that it has the report or why it refused it.

A receipt is a message of the type `receipt` on `receipts/{region}/{local controller}`:
`{"handled": [message_id, …], "refused": {message_id: reason, …}}`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mqttkit.controller.messages.refusals import MessageRefusal, MessageRefused

FINAL_REASONS = frozenset(
    one.value for one in (MessageRefusal.MALFORMED, MessageRefusal.WRONG_REGION, MessageRefusal.CONFLICT)
)
"""Reasons that another try does not change."""
CLOCK_REASONS = frozenset(one.value for one in (MessageRefusal.EXPIRED, MessageRefusal.SKEWED))
"""Reasons that a wrong clock causes; the message can be sent again when the clock is right."""


@dataclass
class ReportReceipt:
    """What one receipt says."""

    handled: list[str] = field(default_factory=list)
    """Identifiers of the messages that the addressee has: handled, handled before, or kept as dead letters."""
    refused: dict[str, str] = field(default_factory=dict)
    """Reason of each refusal, by message_id."""

    def to_payload(self) -> dict[str, Any]:
        """Return the payload of its message."""
        return {"handled": self.handled, "refused": self.refused}


def parse_receipt(payload: Mapping[str, Any]) -> ReportReceipt:
    """Return the receipt in a payload; raise MessageRefused (malformed)."""
    handled, refused = payload.get("handled"), payload.get("refused")
    if not isinstance(handled, list) or not isinstance(refused, dict):
        raise MessageRefused(MessageRefusal.MALFORMED, "a receipt needs `handled`, a list, and `refused`, an object")
    if not all(isinstance(one, str) for one in (*handled, *refused.values())):
        raise MessageRefused(MessageRefusal.MALFORMED, "a receipt names messages and reasons as text")
    return ReportReceipt(handled, refused)


@dataclass(frozen=True)
class ReturnAddress:
    """Where a receipt goes: back the way that the report came."""

    transport: str
    region: str
    controller_id: str


class ReceiptBook:
    """Collects what a batch decides, one receipt for each sender. For the receiver's thread only."""

    def __init__(self, send: Callable[[ReturnAddress, ReportReceipt], None]) -> None:
        self._send = send
        self._open: dict[ReturnAddress, ReportReceipt] = {}

    def handled(self, address: ReturnAddress, message_id: str) -> None:
        """Note that this controller has a message."""
        self._open.setdefault(address, ReportReceipt()).handled.append(message_id)

    def refused(self, address: ReturnAddress, message_id: str, reason: MessageRefusal) -> None:
        """Note why this controller refused an authentic message, if the sender can make use of that."""
        if reason.value in FINAL_REASONS | CLOCK_REASONS:
            self._open.setdefault(address, ReportReceipt()).refused[message_id] = reason.value

    def clear(self) -> None:
        """Forget the notes: the batch is undone."""
        self._open.clear()

    def send(self) -> None:
        """Send the receipts of a batch that is committed."""
        receipts, self._open = self._open, {}
        for address, receipt in receipts.items():
            self._send(address, receipt)
