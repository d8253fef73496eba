"""When to let a fast stream gather before the next read. Pure."""

from __future__ import annotations

FAST = 10_000.0
"""Messages a second above which waiting pays."""
WINDOW = 0.02
"""Seconds over which the rate is measured."""
GATHER = 0.001
"""Seconds to wait before the next read. A broker writes packet by packet: without the wait, every few packets cost a
wake-up of the network thread, a handler call and a wake-up of the reader, on both sides of a small machine."""
GATHER_AWAITED = 0.000_1
"""The same if some messages are QoS 1: the broker sends at most its window (20 in mosquitto) before it waits for our
acknowledgements, so a longer wait would cost more than it saves."""
ENOUGH = 2
"""Messages per read, on average, above which QoS 1 gathers: a broker that sends one at a time is not delayed."""
MANY_IN_FLIGHT = 400
"""Publishes in flight above which acknowledgements gather too: more than a broker acknowledges in GATHER seconds, so
the broker never waits for us."""


class ReadPacing:
    """Decides from the messages delivered how long the next read should wait."""

    def __init__(self) -> None:
        self.pause = 0.0
        """Seconds to wait before the next read; 0 unless the stream is fast."""
        self._count = self._reads = 0
        self._since = 0.0
        self._awaited = False

    def record(self, messages: int, *, awaited: bool, now: float) -> None:
        """Count a delivery at `now` (monotonic seconds); `awaited` if the broker waits for an acknowledgement."""
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
