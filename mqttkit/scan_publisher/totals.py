"""The counts of a scan publisher, and the log lines about losses."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

log = logging.getLogger(__name__)

REPEAT_SECONDS = 60.0
"""Seconds between two log lines about the same cause of losses."""
SHUTDOWN = "not published at shutdown"
"""The cause of losses that the exit code shows."""


@dataclass
class ScanTotals:
    """The counts of a scan publisher. At the end `published` and `lost` add up to `scanned`."""

    scanned: int = 0
    """Advertisements from the source."""
    published: int = 0
    """Messages that the broker acknowledged; at QoS 0, messages that were sent."""
    dropped: Counter[str] = field(default_factory=Counter)
    """Advertisements that were not published, by cause."""
    withheld: Counter[str] = field(default_factory=Counter)
    """Advertisements that the source dropped, by cause: filters, and malformed radio data."""
    acknowledged: bool = False
    """Whether the broker acknowledges messages (QoS 1 and 2)."""

    @property
    def lost(self) -> int:
        """Advertisements that were not published."""
        return self.dropped.total()

    @property
    def waiting(self) -> int:
        """Advertisements without an outcome yet."""
        return self.scanned - self.published - self.lost

    def __str__(self) -> str:
        how = "acknowledged" if self.acknowledged else "sent without acknowledgement"
        text = f"{self.scanned} scanned, {self.published} published ({how}), {self.lost} lost"
        causes, withheld = list_counts(self.dropped), list_counts(self.withheld)
        return (
            text
            + (f" ({causes})" if causes else "")
            + (f", {self.waiting} waiting" if self.waiting > 0 else "")
            + (f", rejected before publishing: {withheld}" if withheld else "")
        )


def list_counts(counts: Mapping[str, int]) -> str:
    """Return `3 not connected, 1 denied`, the largest count first."""
    return ", ".join(f"{count} {cause}" for cause, count in Counter(counts).most_common() if count)


class LossLog:
    """Logs each cause of losses when it starts, and then once per REPEAT_SECONDS with a count."""

    def __init__(self) -> None:
        self._logged: Counter[str] = Counter()
        self._next: dict[str, float] = {}

    def report(self, dropped: Mapping[str, int], now: float) -> None:
        """Log new losses; `dropped` are the counts so far, `now` is the monotonic clock."""
        for cause, count in dropped.items():
            if count > self._logged[cause] and now >= self._next.get(cause, now):
                log.error("%d advertisements lost: %s", count - self._logged[cause], cause)
                self._logged[cause] = count
                self._next[cause] = now + REPEAT_SECONDS
