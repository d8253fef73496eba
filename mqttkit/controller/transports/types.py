"""Ways for messages to travel, one protocol for all of them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol


def _nothing() -> None:
    """Acknowledge what needs no acknowledgement."""


@dataclass(frozen=True)
class Delivery:
    """A message that came in by one transport."""

    topic: str
    data: bytes
    transport: str
    """Name of the transport that it came by."""
    dup: bool = False
    """The transport says that it delivers the same bytes again (MQTT 5, 3.3.1.1)."""
    ack: Callable[[], object] = _nothing
    """Call once the message is dealt with for good; from any thread."""


Receive = Callable[[list[Delivery]], None]
"""Takes what comes in; must not block."""


class Ticket(Protocol):
    """What became of one send."""

    @property
    def done(self) -> bool:
        """True once the outcome is known."""
        ...

    @property
    def ok(self) -> bool:
        """True where the other side has taken the message over."""
        ...

    def wait(self, timeout: float | None = None) -> object:
        """Wait up to `timeout` seconds for the outcome."""
        ...


class Transport(Protocol):
    """One way to publish and to subscribe."""

    name: str

    @property
    def available(self) -> bool:
        """True where a send may be expected to get through now."""
        ...

    def start(self, receive: Receive, wake: Callable[[], None]) -> None:
        """Begin; what comes in goes to `receive`, `wake` is called when `available` may have changed."""
        ...

    def subscribe(self, topic_filter: str) -> None:
        """Receive what is published on the filter from now on, now or as soon as that is possible."""
        ...

    def send(self, topic: str, data: bytes, *, qos: int, retain: bool) -> Ticket:
        """Begin to publish; return at once."""
        ...

    def close(self) -> None:
        """End; idempotent."""
        ...


class Promise:
    """A ticket that somebody settles."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._lock = threading.Lock()
        self.ok = False

    @property
    def done(self) -> bool:
        """True once it is settled."""
        return self._event.is_set()

    def settle(self, ok: bool) -> None:
        """Tell the outcome; the first one counts."""
        with self._lock:
            if not self._event.is_set():
                self.ok = ok
                self._event.set()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait up to `timeout` seconds; True where it is settled."""
        return self._event.wait(timeout)


def settled(ok: bool) -> Promise:
    """Return a ticket whose outcome is known already."""
    promise = Promise()
    promise.settle(ok)
    return promise
