"""The state of a client's connection."""

from __future__ import annotations

import enum


class ConnectionState(enum.Enum):
    """Whether a client is connected to its broker."""

    IDLE = "idle"
    """Not started."""
    CONNECTING = "connecting"
    CONNECTED = "connected"
    WAITING = "waiting"
    """The broker was not reached; the reason says why, and when the client tries again."""
    REFUSED = "refused"
    """The broker refused the connection; the client tries again later unless retry is off."""
    CLOSED = "closed"
