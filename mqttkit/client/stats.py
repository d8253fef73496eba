"""What a client counts."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any


@dataclass
class ClientStats:
    """What a client counted since it was made."""

    connects: int = 0
    """CONNACKs that accepted."""
    disconnects: int = 0
    """Connections that ended, whoever ended them."""
    refusals: int = 0
    """CONNACKs that refused."""
    received: int = 0
    """Messages handed to the handler."""
    handler_errors: int = 0
    """Exceptions that a handler raised."""
    published: Counter[Any] = field(default_factory=Counter)
    """Resolved publishes by `Outcome`."""
    dropped: Counter[str] = field(default_factory=Counter)
    """Dropped publishes by cause."""
