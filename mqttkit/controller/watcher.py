"""Follows the heartbeats of all controllers."""

from __future__ import annotations

import queue
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Any

from mqttkit.client import MqttClient
from mqttkit.controller.configuration import open_codec
from mqttkit.controller.messages.topics import Topics
from mqttkit.controller.status_book import StatusBook
from mqttkit.messages import Message, Subscription
from mqttkit.settings import ControllerSettings, MqttSettings

LOOK_SECONDS = 0.5
"""How often to look whether a controller has become silent."""


class ControllerWatcher:
    """Subscribes to the status of every controller. Entering it connects; raises what the client raises."""

    def __init__(self, controller: ControllerSettings, mqtt: MqttSettings) -> None:
        self._topics = Topics(controller.base)
        self._inbox: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
        self._client = MqttClient(mqtt, on_message=self._inbox.put)
        self.book = StatusBook(self._topics, open_codec(controller, signs=False))
        """What is known of each controller; any thread may read it."""

    def __enter__(self) -> ControllerWatcher:
        try:
            self._client.connect()
            self._client.subscribe(Subscription(self._topics.status_filter(), qos=0))
        except BaseException:
            self._client.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def stop(self) -> None:
        """End `changes`. Any thread or signal handler may call it."""
        self._inbox.put(None)

    def changes(self, duration: float | None = None) -> Iterator[dict[str, Any]]:
        """Yield the row of a controller at each heartbeat, and when it becomes silent.

        Ends when `stop` is called or `duration` seconds have passed.
        """
        end = float("inf") if duration is None else time.monotonic() + duration
        shown: dict[str, str] = {}
        while True:
            try:
                message = self._inbox.get(timeout=max(0.0, min(LOOK_SECONDS, end - time.monotonic())))
            except queue.Empty:
                if time.monotonic() >= end:
                    return
                rows = self.book.silent_since(shown)
            else:
                if message is None:
                    return
                seen = self.book.note(message.topic, message.payload, retained=message.retain)
                rows = [row for row in self.book.rows() if seen is not None and row["controller"] == seen.controller_id]
            for row in rows:
                shown[row["controller"]] = row["status"]
                yield row
