"""When to let a fast stream gather before the next read. Pure."""

from __future__ import annotations

FAST = 10_000.0
"""QoS 0 messages a second from which it pays."""
WINDOW = 0.02
"""Seconds over which the rate is taken."""
GATHER = 0.001
"""Seconds to wait before the next read. A broker writes packet by packet: without it, each few packets cost a
wake-up of the network thread, a handler call and a wake-up of the reader, on both sides of a small machine."""
MANY_FLIGHTS = 400
"""Publishes under way from which acknowledgements gather too: more than a broker acknowledges in GATHER seconds, so
that it never waits for us."""


class Moderation:
    """Tells from the messages delivered whether the stream is a fast one.

    QoS 1 and 2 are never held up: their sender waits for our acknowledgements.
    """

    def __init__(self) -> None:
        self.fast = False
        """True where the next read should wait GATHER seconds."""
        self._count = 0
        self._since = 0.0

    def note(self, messages: int, *, urgent: bool, now: float) -> None:
        """Take note of a delivery at `now`, seconds of the monotonic clock; `urgent` where somebody waits for us."""
        if urgent:
            self.fast = False
            self._count, self._since = 0, now
            return
        self._count += messages
        elapsed = now - self._since
        if elapsed >= WINDOW:
            self.fast = self._count > FAST * elapsed
            self._count, self._since = 0, now
