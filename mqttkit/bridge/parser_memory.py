"""What a parser with a memory does at each batch. A parser without one inherits methods that do nothing."""

from __future__ import annotations

from collections.abc import Mapping


class ParserMemory:
    """A memory that changes with the messages, and must never be ahead of what is committed.

    The pipeline calls `begin`, parses a batch, and calls `begin` again if it discards it. Otherwise it calls `accept`,
    commits, and calls `save` before it acknowledges.
    """

    def open(self) -> None:
        """Read the memory of an earlier run, if the parser has one; raise SinkUnavailable or SinkBroken."""

    def begin(self) -> None:
        """Start a batch; what was parsed since the last `accept` is discarded."""

    def accept(self) -> None:
        """Keep what was parsed since `begin`: the batch will be committed before any other."""

    def save(self) -> None:
        """Save what was accepted; called after a commit, before its acknowledgements. Raise SinkUnavailable."""

    def counts(self) -> Mapping[str, int]:
        """Return the parser's own counters by name. Any thread may call it."""
        return {}

    def close(self) -> None:
        """Close what `open` opened; may be called twice."""
