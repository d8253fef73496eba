"""Messages on their way: waiting to be sent, for a transport's acknowledgement, for a receipt."""

from __future__ import annotations

from dataclasses import dataclass, field

from mqttkit.controller.messages.envelope import Envelope
from mqttkit.controller.transports.types import Promise, Ticket

NO_MATCHING_SUBSCRIBERS = 16
"""PUBACK reason code: accepted, but no client subscribes (MQTT 5, 3.4.2.1)."""
REFUSED_FOR_GOOD = frozenset({135, 144, 149, 153})
"""PUBACK reason codes that another try does not change: not authorized, topic name, size, payload (MQTT 5, 2.4)."""
RECEIPT_SECONDS = 10.0
"""Seconds that the addressee has for its receipt before the sender sends the message again; then twice as long, …"""
MAX_RECEIPT_SECONDS = 60.0
"""… up to this."""


@dataclass(eq=False)
class PendingMessage:
    """A message that is not settled yet."""

    envelope: Envelope
    topic: str
    retain: bool
    qos: int = 1
    expires: float = float("inf")
    """When it is no longer worth sending, by the monotonic clock."""
    needs_receipt: bool = False
    """Only the addressee's receipt settles it; without, a transport that accepts it does."""
    needs_subscriber: bool = False
    """A transport has not taken it if the broker says that no client subscribes (MQTT 5). A report always needs one."""
    data: bytes = b""
    """The envelope's JSON; the sender sets it."""
    promise: Promise = field(default_factory=Promise)
    tried: set[str] = field(default_factory=set)
    """Transports that failed since the last pause."""
    unanswered: int = 0
    """How often the deadline for the receipt has passed."""
    denial: str = ""
    """Why a broker or the addressee denied it for good."""


@dataclass(eq=False)
class SendAttempt:
    """A message that a transport has, but has not acknowledged."""

    item: PendingMessage
    transport: str
    ticket: Ticket
    deadline: float

    @property
    def is_taken(self) -> bool:
        """True if the transport has taken it over, for a client that subscribes."""
        must_arrive = self.item.needs_receipt or self.item.needs_subscriber
        nobody = must_arrive and getattr(self.ticket, "code", 0) == NO_MATCHING_SUBSCRIBERS
        return self.ticket.done and self.ticket.ok and not nobody

    @property
    def denial(self) -> str:
        """Why the broker refuses the message for good; empty if another try may help."""
        if getattr(self.ticket, "code", 0) not in REFUSED_FOR_GOOD:
            return ""
        return str(getattr(self.ticket, "reason", "")) or "denied by the broker"


class ReceiptWaits:
    """The messages that a transport has taken and that wait for their receipt."""

    def __init__(self) -> None:
        self._waits: dict[str, tuple[PendingMessage, str, float]] = {}

    def __len__(self) -> int:
        return len(self._waits)

    def add(self, item: PendingMessage, transport: str, now: float) -> None:
        """Wait for the receipt; each time longer."""
        seconds = min(RECEIPT_SECONDS * 2**item.unanswered, MAX_RECEIPT_SECONDS)
        self._waits[item.envelope.message_id] = (item, transport, now + seconds)

    def discard(self, message_id: str) -> None:
        """Stop waiting, if it waits."""
        self._waits.pop(message_id, None)

    def take_overdue(self, now: float) -> list[tuple[PendingMessage, str]]:
        """Remove the messages whose deadline has passed; return each with the transport that took it."""
        overdue = [(item, transport) for item, transport, deadline in list(self._waits.values()) if deadline <= now]
        for item, transport in overdue:
            self.discard(item.envelope.message_id)
            item.unanswered += 1
            item.tried.add(transport)
        return overdue
