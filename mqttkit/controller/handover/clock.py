"""The clock of the addressee, as its receipts show it. A sender with a wrong clock holds its reports back."""

from __future__ import annotations

import logging

log = logging.getLogger(__name__)


class AddresseeClock:
    """Compares this machine's clock with the addressee's, by the rule that the addressee applies to messages."""

    def __init__(self, skew: float) -> None:
        self.skew = skew
        """Allowed difference, seconds."""
        self.offset = 0.0
        """Seconds by which the addressee's clock is ahead of this one; 0 before the first receipt."""
        self.addressee = ""

    @property
    def is_wrong(self) -> bool:
        """True if the addressee would refuse what this machine signs now."""
        return abs(self.offset) > self.skew

    @property
    def text(self) -> str:
        """What is wrong, for people; empty if nothing is."""
        if not self.is_wrong:
            return ""
        side = "behind" if self.offset > 0 else "ahead of"
        return (
            f"the clock of this machine is {abs(self.offset):.0f} s {side} that of {self.addressee}, "
            f"the limit is {self.skew:.0f} s"
        )

    def record(self, addressee: str, offset: float) -> None:
        """Record by how many seconds the addressee's clock is ahead; log whether that has become too much."""
        was_wrong = self.is_wrong
        self.addressee, self.offset = addressee, offset
        if self.is_wrong and not was_wrong:
            log.error("%s; reports wait until it is corrected", self.text)
        elif was_wrong and not self.is_wrong:
            log.info("the clock of this machine agrees with that of %s again", addressee)
