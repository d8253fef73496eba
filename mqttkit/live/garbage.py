"""Python's search for cycles of objects, for a process that receives many messages."""

from __future__ import annotations

import gc

THRESHOLD = 20_000
"""New objects before Python looks for cycles. A busy broker makes 100,000 messages a second, and none is in a cycle."""


def search_rarely() -> None:
    """Look for cycles less often, and never among the objects that exist now. It applies to the whole process."""
    gc.freeze()
    gc.set_threshold(THRESHOLD)
