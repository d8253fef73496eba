"""Count received, missing, repeated and late messages of a numbered stream."""

from __future__ import annotations


class Sequence:
    """Checks the numbers 0, 1, 2, … of one publisher at one subscriber."""

    def __init__(self) -> None:
        self.received = 0
        """Messages, including repeated ones."""
        self.duplicated = 0
        self.reordered = 0
        """Messages that arrived after one with a higher number."""
        self._next = 0
        self._missing: set[int] = set()

    def add(self, number: int) -> None:
        """Count the message with this number."""
        self.received += 1
        if number == self._next:
            self._next = number + 1
        elif number > self._next:
            self._missing.update(range(self._next, number))
            self._next = number + 1
        elif number in self._missing:
            self._missing.discard(number)
            self.reordered += 1
        else:
            self.duplicated += 1

    def lost(self, published: int) -> int:
        """Return how many of the first `published` numbers are missing."""
        return len(self._missing) + max(published - self._next, 0)
