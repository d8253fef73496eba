"""How a bridge stops: drain the queue, read what is in transit, and leave if it will not come back."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence

from mqttkit.bridge.flow.pipeline import Pipeline
from mqttkit.client import MqttClient
from mqttkit.errors import MqttkitError
from mqttkit.settings import BridgeSettings

logger = logging.getLogger(__name__)

ANSWER_SECONDS = 3.0
"""How long to wait for an UNSUBACK."""
LEAVE_QUIET_SECONDS = 1.0
"""A bridge that leaves waits until the broker has sent nothing for so long."""
QUIESCE_SECONDS = 1.5
QUIET_SECONDS = 0.1
"""Before it disconnects, the bridge waits until no message has arrived for 0.1 s, at most 1.5 s."""


class Shutdown:
    """Stop one bridge. Call the methods from the thread that supervises it."""

    def __init__(
        self, client: MqttClient, pipeline: Pipeline, settings: BridgeSettings, *, has_failed: Callable[[], bool]
    ) -> None:
        self._client = client
        self._pipeline = pipeline
        self._settings = settings
        self._has_failed = has_failed
        self._never = threading.Event()

    def unsubscribe_and_empty(self, topic_filters: Sequence[str]) -> bool:
        """Unsubscribe, and commit the messages that the broker has queued for this bridge; return False if that failed.

        Without the subscription the broker assigns no more messages of a group to this bridge.
        """
        try:
            self._client.unsubscribe(*topic_filters, timeout=ANSWER_SECONDS)
        except MqttkitError as error:
            logger.warning("cannot leave: %s; the session stays", error)
            return False
        quiet_since, received = time.monotonic(), -1
        while time.monotonic() - quiet_since < LEAVE_QUIET_SECONDS and self._client.connected:
            balance = self._pipeline.books.balance()
            if balance.in_flight or balance.received != received:
                quiet_since, received = time.monotonic(), balance.received
            if self._has_failed() or self._never.wait(QUIET_SECONDS):
                break
        return True

    def drain(self, worker: threading.Thread) -> bool:
        """Commit and acknowledge all queued messages; return False if some are left."""
        self._pipeline.intake.drain()
        worker.join(self._settings.drain_timeout)
        if worker.is_alive():
            self._pipeline.intake.stop()
            worker.join(self._settings.sink_timeout / 2)
        self._read_in_transit()
        left = self._pipeline.books.balance().in_flight
        if left:
            logger.error("%d messages were not committed; the broker keeps them for the next run", left)
        return not left

    def _read_in_transit(self) -> None:
        """Read until the broker sends no more messages.

        If a socket is closed with unread bytes, the kernel resets it, and acknowledgements in transit are lost.
        """
        deadline = time.monotonic() + QUIESCE_SECONDS
        before = -1
        while self._client.connected and time.monotonic() < deadline:
            if self._pipeline.books.turned_away == before:
                return
            before = self._pipeline.books.turned_away
            self._never.wait(QUIET_SECONDS)
