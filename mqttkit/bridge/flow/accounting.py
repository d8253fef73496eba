"""The books: received = stored + duplicate + dead_lettered + in_flight, at every moment."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Balance:
    """One consistent reading of the books."""

    received: int
    """Messages taken from the broker since the start, less those given back."""
    stored: int
    duplicate: int
    """Metrics whose dedupe_id was stored before."""
    dead_lettered: int
    in_flight: int
    """Taken and neither committed nor given back: counted where they wait, not worked out from the others."""

    @property
    def difference(self) -> int:
        """Messages that the books cannot account for: 0, or there is a fault in the bridge."""
        return self.received - self.stored - self.duplicate - self.dead_lettered - self.in_flight

    def __str__(self) -> str:
        return (
            f"received={self.received} = stored={self.stored} + duplicate={self.duplicate}"
            f" + dead_lettered={self.dead_lettered} + in_flight={self.in_flight}"
        )


@dataclass
class Books:
    """Counters of one run. Any thread."""

    received: int = 0
    stored: int = 0
    duplicate: int = 0
    dead_lettered: int = 0
    in_flight: int = 0
    returned: int = 0
    """Messages given back unread when their connection ended: the broker holds them and sends them again."""
    reasons: Counter[str] = field(default_factory=Counter)
    """Dead letters by reason."""
    acknowledged: int = 0
    stale: int = 0
    """Acknowledgements not sent because their connection was gone."""
    overflows: int = 0
    """Times that the broker sent more than the queue holds and was cut off."""
    turned_away: int = 0
    """Messages not taken, so never acknowledged: after an overflow and while draining."""
    lost_qos0: int = 0
    """Of those, messages at QoS 0, which nobody sends again."""
    batches: int = 0
    retries: int = 0
    """Commits that failed and were tried again."""
    commit_seconds: float = 0.0
    """Time spent in commits that succeeded."""
    handler_errors: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def take(self, number: int) -> None:
        """Note messages received."""
        with self._lock:
            self.received += number
            self.in_flight += number

    def give_back(self, number: int) -> None:
        """Note messages left to the broker, which sends them again."""
        with self._lock:
            self.received -= number
            self.in_flight -= number
            self.returned += number

    def settle(self, *, stored: int, duplicate: int, reasons: Counter[str]) -> None:
        """Note a committed batch."""
        dead = sum(reasons.values())
        with self._lock:
            self.stored += stored
            self.duplicate += duplicate
            self.dead_lettered += dead
            self.in_flight -= stored + duplicate + dead
            self.reasons.update(reasons)
            self.batches += 1

    def note_handler_error(self) -> None:
        """Note an exception that nobody expected."""
        with self._lock:
            self.handler_errors += 1

    def balance(self) -> Balance:
        """Return a consistent reading."""
        with self._lock:
            return Balance(self.received, self.stored, self.duplicate, self.dead_lettered, self.in_flight)
