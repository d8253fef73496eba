"""The state of a client's connection, and its log."""

from __future__ import annotations

import enum
import logging

log = logging.getLogger(__name__)


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


class StateLog:
    """Logs each change once, not once per attempt: it skips a state whose cause has not changed."""

    def __init__(self) -> None:
        self._last = ("", "")

    def record(self, state: ConnectionState, reason: str, cause: str, client_id: str) -> None:
        """Log a change of state unless it was the latest one logged; `cause` is `reason` without times."""
        if state in (ConnectionState.CONNECTING, ConnectionState.IDLE) or (state.value, cause) == self._last:
            return
        self._last = (state.value, cause)
        if state in (ConnectionState.WAITING, ConnectionState.REFUSED):
            log.warning("%s", reason)
        elif reason and state is ConnectionState.CLOSED:
            log.info("giving up: %s", reason)
        elif state is ConnectionState.CONNECTED:
            log.info("connected to %s as %s", reason, client_id)
