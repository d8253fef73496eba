"""The in-process bus: controllers in one process reach each other without a network."""

from __future__ import annotations

import threading
from collections.abc import Callable

from mqttkit.controller.transports.types import Promise, Receive, ReceivedMessage, Ticket, settled
from mqttkit.topics import matches


class MemoryBus:
    """Connects the memory transports that join it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._members: list[MemoryTransport] = []
        self._retained: dict[str, bytes] = {}

    def join(self, member: MemoryTransport) -> None:
        """Add a transport."""
        with self._lock:
            self._members.append(member)

    def leave(self, member: MemoryTransport) -> None:
        """Remove a transport."""
        with self._lock:
            self._members = [other for other in self._members if other is not member]

    def subscribers(self, topic: str, sender: MemoryTransport) -> list[MemoryTransport]:
        """Return the other transports that subscribe to the topic."""
        with self._lock:
            return [member for member in self._members if member is not sender and member.wants(topic)]

    def retain(self, topic: str, data: bytes) -> None:
        """Keep a message for later subscribers."""
        with self._lock:
            self._retained[topic] = data

    def retained(self, topic_filter: str) -> list[tuple[str, bytes]]:
        """Return the retained messages that match a filter."""
        with self._lock:
            return [(topic, data) for topic, data in self._retained.items() if matches(topic_filter, topic)]


class MemoryTransport:
    """One controller's connection to the bus. A send succeeds when the subscribers have handled it."""

    name = "memory"

    def __init__(self, bus: MemoryBus) -> None:
        self._bus = bus
        self._filters: list[str] = []
        self._receive: Receive | None = None

    @property
    def available(self) -> bool:
        """True after `start`; each send shows whether there is a subscriber."""
        return self._receive is not None

    def start(self, receive: Receive, wake: Callable[[], None]) -> None:
        """Join the bus."""
        self._receive = receive
        self._bus.join(self)
        wake()

    def subscribe(self, topic_filter: str, qos: int = 1) -> None:
        """Receive retained messages now, and new messages as they are sent."""
        self._filters.append(topic_filter)
        kept = [ReceivedMessage(topic, data, self.name) for topic, data in self._bus.retained(topic_filter)]
        if kept and self._receive is not None:
            self._receive(kept)

    def wants(self, topic: str) -> bool:
        """Return True if a subscription matches."""
        return any(matches(topic_filter, topic) for topic_filter in self._filters)

    def send(self, topic: str, data: bytes, *, qos: int, retain: bool) -> Ticket:
        """Give the message to each subscriber; without a subscriber the send fails, unless it is retained."""
        if retain:
            self._bus.retain(topic, data)
        promise = Promise()
        subscribers = self._bus.subscribers(topic, self)
        if not subscribers:
            return settled(retain)
        for subscriber in subscribers:
            subscriber.take(ReceivedMessage(topic, data, self.name, ack=lambda: promise.settle(True)))
        return promise

    def take(self, delivery: ReceivedMessage) -> None:
        """Receive a message of another member."""
        if self._receive is not None:
            self._receive([delivery])

    def close(self) -> None:
        """Leave the bus."""
        self._bus.leave(self)
        self._receive = None
