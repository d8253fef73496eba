"""The interface of all transports."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol


def _nothing() -> None:
    """Do nothing: the message needs no acknowledgement."""


@dataclass(frozen=True)
class ReceivedMessage:
    """A message received by one transport."""

    topic: str
    data: bytes
    transport: str
    """Name of the transport."""
    dup: bool = False
    """The transport delivers the same bytes again (MQTT 5, 3.3.1.1)."""
    ack: Callable[[], object] = _nothing
    """Call when the message is handled and committed; from any thread."""


Receive = Callable[[list[ReceivedMessage]], None]
"""Receives messages; must not block."""


class Ticket(Protocol):
    """The outcome of one send."""

    @property
    def done(self) -> bool:
        """True once the outcome is known."""
        ...

    @property
    def ok(self) -> bool:
        """True if the other side accepted the message."""
        ...

    def wait(self, timeout: float | None = None) -> object:
        """Wait up to `timeout` seconds for the outcome."""
        ...


class Transport(Protocol):
    """One way to publish and to subscribe."""

    name: str

    @property
    def available(self) -> bool:
        """True if a send will probably succeed now."""
        ...

    def start(self, receive: Receive, wake: Callable[[], None]) -> None:
        """Start. `receive` gets received messages; `wake` is called when `available` may have changed."""
        ...

    def subscribe(self, topic_filter: str, qos: int = 1) -> None:
        """Subscribe now, or as soon as the transport is available. `qos` is for MQTT."""
        ...

    def send(self, topic: str, data: bytes, *, qos: int, retain: bool) -> Ticket:
        """Start publishing; do not block."""
        ...

    def close(self) -> None:
        """End; idempotent."""
        ...


class Promise:
    """A ticket that its owner settles by hand."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._lock = threading.Lock()
        self.ok = False
        self.reason = ""
        """Why it failed, if that is known."""
        self.taken_by = ""
        """The transport that has taken the message; that is not the addressee's receipt yet."""

    @property
    def done(self) -> bool:
        """True once it is settled."""
        return self._event.is_set()

    def settle(self, ok: bool, reason: str = "") -> None:
        """Set the outcome; only the first call counts."""
        with self._lock:
            if not self._event.is_set():
                self.ok, self.reason = ok, reason
                self._event.set()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait up to `timeout` seconds; return True if it is settled."""
        return self._event.wait(timeout)


def settled(ok: bool) -> Promise:
    """Return a ticket with a known outcome."""
    promise = Promise()
    promise.settle(ok)
    return promise
