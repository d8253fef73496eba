"""When to let a fast stream gather before the next read. Pure."""

from __future__ import annotations

FAST = 10_000.0
"""Messages a second from which it pays."""
WINDOW = 0.02
"""Seconds over which the rate is taken."""
GATHER = 0.001
"""Seconds to wait before the next read. A broker writes packet by packet: without it, each few packets cost a
wake-up of the network thread, a handler call and a wake-up of the reader, on both sides of a small machine."""
GATHER_AWAITED = 0.000_1
"""Where messages of QoS 1 are among them: the broker sends no more than its window (20 in mosquitto) before it waits
for us, so that a longer wait would cost more than it saves."""
ENOUGH = 2
"""Messages a read, on average, from which those of QoS 1 gather: a broker that sends one at a time is not held up."""
MANY_FLIGHTS = 400
"""Publishes under way from which acknowledgements gather too: more than a broker acknowledges in GATHER seconds, so
that it never waits for us."""


class Moderation:
    """Tells from the messages delivered how long the next read should wait."""

    def __init__(self) -> None:
        self.pause = 0.0
        """Seconds to wait before the next read; 0 unless the stream is a fast one."""
        self._count = self._reads = 0
        self._since = 0.0
        self._awaited = False

    def note(self, messages: int, *, awaited: bool, now: float) -> None:
        """Take note of a delivery at `now`, seconds of the monotonic clock; `awaited` where it is acknowledged."""
        self._count += messages
        self._reads += 1
        if awaited and not self._awaited:
            self._awaited = True
            self.pause = min(self.pause, GATHER_AWAITED)
        elapsed = now - self._since
        if elapsed < WINDOW:
            return
        self.pause = 0.0
        if self._count > FAST * elapsed:
            if not self._awaited:
                self.pause = GATHER
            elif self._count >= ENOUGH * self._reads:
                self.pause = GATHER_AWAITED
        self._count = self._reads = 0
        self._since, self._awaited = now, False
