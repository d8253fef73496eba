"""The thread that sends heartbeats, and the time at which the controller was last online."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from mqttkit.controller.security.gate import Gate
from mqttkit.controller.store import Store
from mqttkit.errors import StoreFailed

log = logging.getLogger(__name__)

CATCH_UP_SECONDS = 300.0
"""For how long after a reconnect the gate accepts messages that the broker kept meanwhile."""
KEY_CHECK_SECONDS = 2.0
"""How often to look whether another key signs now."""


class Heartbeats:
    """Calls `beat` now, at each interval, when it is due, and when another key signs. Any thread may set `due`."""

    def __init__(self, interval: float, beat: Callable[[], None], signer: Callable[[], str]) -> None:
        self._interval, self._beat, self._signer = interval, beat, signer
        self.due, self.stopping = threading.Event(), threading.Event()
        self.thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self.thread.start()

    def close(self) -> None:
        """End the thread, if it was started."""
        self.stopping.set()
        self.due.set()
        if self.thread.ident is not None:
            self.thread.join(10)

    def _run(self) -> None:
        while True:
            self.due.clear()
            if self.stopping.is_set():
                return
            signer = self._signer()
            self._beat()
            end = time.monotonic() + self._interval
            while (left := end - time.monotonic()) > 0 and not self.due.wait(min(left, KEY_CHECK_SECONDS)):
                if self._signer() != signer:
                    break


class OnlineTime:
    """Remembers across restarts when the controller was online, so that it accepts what the broker kept for it."""

    def __init__(self, store: Store, gate: Gate) -> None:
        self._store, self._gate = store, gate

    def save(self) -> None:
        """The controller is online now."""
        try:
            self._store.save_time("online", time.time())
        except StoreFailed as error:
            log.warning("cannot save the time at which this controller was online: %s", error)

    def expect_delayed(self) -> None:
        """The controller has connected: for a while, accept messages sent since it was last online."""
        try:
            since = self._store.moment("online")
        except StoreFailed as error:
            log.warning("messages that the broker kept meanwhile may be refused: %s", error)
            return
        if since is not None:
            self._gate.expect_delayed(since, CATCH_UP_SECONDS)
