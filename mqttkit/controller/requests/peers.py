"""What other controllers say about themselves, for those that send them requests."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

from mqttkit.controller.messages.envelope import Envelope


@dataclass(frozen=True)
class PeerRun:
    """One run of a controller."""

    state: str
    incarnation: str
    connection: int
    sequence: int


class PeerRuns:
    """The newest run of each controller, from its heartbeats. Any thread may call the methods."""

    def __init__(self) -> None:
        self._runs: dict[str, PeerRun] = {}
        self._condition = threading.Condition()

    def note(self, envelope: Envelope) -> None:
        """Record a heartbeat that is newer than the last one."""
        content = envelope.payload
        state, incarnation, connection = (content.get(name) for name in ("state", "incarnation", "connection"))
        if state not in ("online", "offline") or not isinstance(incarnation, str) or type(connection) is not int:
            return
        new = PeerRun(state, incarnation, connection, envelope.sequence)
        with self._condition:
            known = self._runs.get(envelope.sender_id)
            if known is None or _is_newer(known, new):
                self._runs[envelope.sender_id] = new
                self._condition.notify_all()

    def wait(self, controller_id: str, deadline: float, *, other_than: PeerRun | None = None) -> PeerRun | None:
        """Return the controller's run as soon as it is known; None at the deadline (monotonic clock)."""

        def known() -> PeerRun | None:
            found = self._runs.get(controller_id)
            same = other_than is not None and found is not None and _same_connection(found, other_than)
            return None if same else found

        with self._condition:
            self._condition.wait_for(lambda: known() is not None, max(0.0, deadline - time.monotonic()))
            return known()


def _same_connection(one: PeerRun, other: PeerRun) -> bool:
    return (one.incarnation, one.connection) == (other.incarnation, other.connection)


def _is_newer(known: PeerRun, new: PeerRun) -> bool:
    """A will counts only for the run and the connection that set it."""
    if new.state == "offline":
        return new.incarnation == known.incarnation and new.connection >= known.connection
    return (new.incarnation, new.sequence) > (known.incarnation, known.sequence)
