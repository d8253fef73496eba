"""Send again what a server has answered and then lost, because it was killed before it wrote to disk.

The ledger keeps each request for some seconds after its answer, with the time of the server's start. Before the sink
forgets the request it asks when the server started. After a restart it reads back and sends again what is missing.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from mqttkit.bridge.sinks.ledger import Ledger, RecentRequest
from mqttkit.errors import SinkRefused

KEEP_SECONDS = 15.0
"""Seconds after its answer in which a request may not be on the server's disk."""
CHECK_SECONDS = 5.0
"""Seconds between questions for the server's start."""
PART = 20
"""Requests to repair at a time."""
REPAIR_SECONDS = 2.0
"""Seconds after which new batches have their turn again."""

logger = logging.getLogger(__name__)


@runtime_checkable
class ForgetfulServer(Protocol):
    """A server that loses its last seconds if it is killed. Use it from one thread at a time; each method may block."""

    def start(self) -> str:
        """Return a text that changes at each restart, and is empty if it is not known; raise SinkUnavailable."""
        ...

    def repair(self, body: bytes) -> int:
        """Send again the metrics of a request that are not stored; return their number; raise as `Destination.send`."""
        ...


class RecentRequests:
    """The requests of one ledger that its server may still lose."""

    def __init__(self, server: ForgetfulServer) -> None:
        self._server = server
        self._check_at = 0.0
        self._start = ""

    def start(self) -> str:
        """Return the server's start as of the last question."""
        if not self._start:
            self._start = self._server.start()
        return self._start

    def check(self, ledger: Ledger) -> None:
        """Repair requests if the server has restarted; forget those that are on its disk."""
        if time.monotonic() < self._check_at:
            return
        self._start = self._server.start()
        if not self._start:
            return
        before, deadline = time.time() - KEEP_SECONDS, time.monotonic() + REPAIR_SECONDS
        while time.monotonic() < deadline:
            lost = ledger.take_recent(before, self._start, PART)
            if not lost:
                self._check_at = time.monotonic() + CHECK_SECONDS
                break
            self._repair(lost)
            ledger.renew_recent(lost, self._start)
        ledger.forget_recent(before, self._start)

    def _repair(self, requests: Sequence[RecentRequest]) -> None:
        number = 0
        for request in requests:
            try:
                number += self._server.repair(request.body)
            except SinkRefused as error:
                logger.warning("the server was killed, lost metrics, and refuses them now: %s", error)
        if number:
            logger.warning("the server was killed and lost %d metrics; they are stored again", number)
