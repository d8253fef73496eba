"""An expectation: which messages must arrive, how many, within which time. No network and no clock."""

from __future__ import annotations

import enum
from collections import deque
from dataclasses import dataclass, field

from mqttkit.expectations.matching import MismatchCheck
from mqttkit.messages import Message
from mqttkit.topics import matches

KEPT = 5
"""Messages that did not match and are kept for the report."""


class Ending(enum.Enum):
    """How an expectation ended."""

    MATCHED = "matched"
    WRONG = "wrong"
    """Messages arrived, but not the expected ones."""
    ABSENT = "absent"
    """No message arrived on the topic filter."""


@dataclass(frozen=True, kw_only=True)
class Expectation:
    """What must arrive."""

    topic_filter: str
    checks: tuple[MismatchCheck, ...] = ()
    """Without `in_order` a message must pass all of them; with it, the first message the first one, and so on."""
    names: tuple[str, ...] = ()
    """How to call the checks in a report."""
    count: int = 1
    """Messages that must match."""
    seconds: float = 10.0
    """Time limit."""
    none: bool = False
    """Expect that no message matches within the time limit."""
    in_order: bool = False
    """The checks must be passed one after the other; other messages may come between them."""
    skip_retained: bool = False

    def text(self) -> str:
        """Return the expectation as words."""
        what = "no message" if self.none else f"{self.needed} message{'s' if self.needed > 1 else ''}"
        how = f" matching {', then '.join(self.names) if self.in_order else ' and '.join(self.names)}" * bool(
            self.names
        )
        return f"{what} on {self.topic_filter!r}{how} within {self.seconds:g} s"

    @property
    def needed(self) -> int:
        """Messages that must match."""
        return len(self.checks) if self.in_order else self.count


@dataclass
class Progress:
    """How far an expectation is met."""

    expectation: Expectation
    matched: list[Message] = field(default_factory=list)
    others: int = 0
    """Messages on the topic filter that did not match."""
    last: deque[tuple[Message, str]] = field(default_factory=lambda: deque(maxlen=KEPT))
    """The last of them, and why they did not match."""

    def look_at(self, message: Message) -> bool:
        """Take a message into account; return True once the ending is known before the time limit."""
        expectation = self.expectation
        if not matches(expectation.topic_filter, message.topic) or (expectation.skip_retained and message.retain):
            return False
        checks = expectation.checks
        if expectation.in_order:
            checks = checks[len(self.matched) : len(self.matched) + 1]
        reason = next((problem for check in checks if (problem := check(message))), "")
        if reason:
            self.others += 1
            self.last.append((message, reason))
            return False
        self.matched.append(message)
        return expectation.none or len(self.matched) >= expectation.needed

    def ending(self) -> Ending:
        """Return how it ended: when `look_at` returned True, or at the time limit."""
        if self.expectation.none:
            return Ending.WRONG if self.matched else Ending.MATCHED
        if len(self.matched) >= self.expectation.needed:
            return Ending.MATCHED
        return Ending.WRONG if self.others or self.matched else Ending.ABSENT
