"""The books: received = stored + duplicate + dead_lettered + in_flight, at every moment."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Balance:
    """All counters of the books at one moment."""

    received: int
    """Messages received since the start, without those that were given back or put aside."""
    stored: int
    duplicate: int
    """Metrics that were stored before under the same dedupe_id."""
    dead_lettered: int
    in_flight: int
    """Messages in the queue or in a batch. Counted there, not computed from the other counters."""

    @property
    def difference(self) -> int:
        """Messages that the counters do not explain: 0, unless the bridge has a bug."""
        return self.received - self.stored - self.duplicate - self.dead_lettered - self.in_flight

    def __str__(self) -> str:
        return (
            f"received={self.received} = stored={self.stored} + duplicate={self.duplicate}"
            f" + dead_lettered={self.dead_lettered} + in_flight={self.in_flight}"
        )


@dataclass
class Books:
    """Counters of one run. Use them from any thread."""

    received: int = 0
    stored: int = 0
    duplicate: int = 0
    dead_lettered: int = 0
    in_flight: int = 0
    returned: int = 0
    """Messages dropped from the queue when their connection ended: the broker sends them again."""
    put_aside: int = 0
    """Messages that are not stored here and not wrong: mqttkit's own, those for other outputs, and empty ones, which
    clear a retained message."""
    reasons: Counter[str] = field(default_factory=Counter)
    """Dead letters by reason."""
    acknowledged: int = 0
    """Messages acknowledged, without those put aside."""
    stale: int = 0
    """Acknowledgements not sent because their connection had ended."""
    overflows: int = 0
    """Times that the broker sent more than the queue holds, though reading was not paused."""
    turned_away: int = 0
    """Messages not queued and never acknowledged: after an overflow and while draining."""
    lost_qos0: int = 0
    """Those of them at QoS 0, which no broker sends again."""
    batches: int = 0
    retries: int = 0
    """Commits that failed and were tried again."""
    commit_seconds: float = 0.0
    """Time spent in commits that succeeded."""
    handler_errors: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def take(self, number: int) -> None:
        """Count received messages."""
        with self._lock:
            self.received += number
            self.in_flight += number

    def expand(self, number: int) -> None:
        """Count the further metrics of messages that have several."""
        with self._lock:
            self.received += number
            self.in_flight += number

    def give_back(self, number: int) -> None:
        """Count messages that the broker will send again."""
        with self._lock:
            self.received -= number
            self.in_flight -= number
            self.returned += number

    def count_put_aside(self, number: int) -> None:
        """Count messages that need no commit."""
        with self._lock:
            self.received -= number
            self.in_flight -= number
            self.put_aside += number

    def settle(self, *, stored: int, duplicate: int, reasons: Counter[str]) -> None:
        """Count a committed batch."""
        dead = sum(reasons.values())
        with self._lock:
            self.stored += stored
            self.duplicate += duplicate
            self.dead_lettered += dead
            self.in_flight -= stored + duplicate + dead
            self.reasons.update(reasons)
            self.batches += 1

    def note_handler_error(self) -> None:
        """Count an unexpected exception."""
        with self._lock:
            self.handler_errors += 1

    def balance(self) -> Balance:
        """Return all counters at one moment."""
        with self._lock:
            return Balance(self.received, self.stored, self.duplicate, self.dead_lettered, self.in_flight)
