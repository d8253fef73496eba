"""Messages that the broker's restored session delivers before the controller has subscribed, and so has a handler."""

from __future__ import annotations

import threading
import time

from mqttkit.controller.transports.types import Receive, ReceivedMessage
from mqttkit.topics import matches

HOLD_SECONDS = 5.0
"""After this time, messages on topics without a subscription are passed on, to be refused or ignored."""


class HeldMessages:
    """Passes messages on; holds those that no subscription of this run matches yet. Any thread may call the methods."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._lock = threading.Lock()
        self._filters: list[str] = []
        self._held: list[ReceivedMessage] = []
        self._until = float("inf")
        self._timer: threading.Timer | None = None

    def start(self) -> None:
        """Start the period in which the controller should subscribe."""
        self._until = time.monotonic() + HOLD_SECONDS

    @property
    def is_over(self) -> bool:
        """True once the controller has had enough time for all its subscriptions."""
        return time.monotonic() >= self._until

    def take(self, deliveries: list[ReceivedMessage]) -> None:
        """Pass on or hold messages, in their order."""
        if self.is_over:
            self._receive(deliveries)
            return
        with self._lock:
            known: list[ReceivedMessage] = []
            for one in deliveries:
                wanted = any(matches(topic_filter, one.topic) for topic_filter in self._filters)
                (known if wanted else self._held).append(one)
            if self._held and self._timer is None:
                self._timer = threading.Timer(HOLD_SECONDS, self.release)
                self._timer.daemon = True
                self._timer.start()
        self._receive(known)

    def subscribed(self, topic_filter: str) -> None:
        """Pass on what is held for a topic filter, from now on without delay."""
        with self._lock:
            self._filters.append(topic_filter)
            known = [one for one in self._held if matches(topic_filter, one.topic)]
            self._held = [one for one in self._held if not matches(topic_filter, one.topic)]
        self._receive(known)

    def release(self) -> None:
        """Pass on everything that is held."""
        with self._lock:
            held, self._held = self._held, []
        self._receive(held)

    def close(self) -> None:
        """Drop what is held: it is not acknowledged, so it will be delivered again."""
        with self._lock:
            self._held = []
            if self._timer is not None:
                self._timer.cancel()
