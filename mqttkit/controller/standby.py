"""Two instances with one identity: the older one stands down and waits until the newer one leaves."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import replace

from mqttkit.client import MqttClient
from mqttkit.controller.messages.topics import Topics
from mqttkit.controller.security.gate import Codec
from mqttkit.controller.status_book import StatusBook
from mqttkit.errors import MqttkitError, SubscriptionDenied
from mqttkit.messages import Message, Subscription
from mqttkit.settings import MqttSettings

log = logging.getLogger(__name__)

UNHEARD_SECONDS = 20.0
"""After this time without any heartbeat of the other instance, this one continues: it needs time to connect again."""
_LOOK_SECONDS = 0.5


class Standby:
    """Follows the heartbeats of the other instance as another client, and calls `resume` when they end."""

    def __init__(
        self, controller_id: str, topics: Topics, codec: Codec, mqtt: MqttSettings, resume: Callable[[], None]
    ) -> None:
        self._id, self._topic = controller_id, topics.status(controller_id)
        self._book = StatusBook(topics, codec)
        self._resume = resume
        plain = replace(mqtt.client, client_id="", clean_session=True, session_expiry=0)
        self._inbox: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._client = MqttClient(replace(mqtt, client=plain), on_message=self._inbox.put)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="standby", daemon=True)

    def start(self) -> None:
        """Start following the other instance."""
        log.error("another instance of %s runs; this one stands down until it leaves", self._id)
        self._thread.start()

    @property
    def is_waiting(self) -> bool:
        """True until the other instance has left, or `close`."""
        return self._thread.is_alive()

    def close(self) -> None:
        """Stop waiting."""
        self._stop.set()
        if self._thread.ident is not None and self._thread is not threading.current_thread():
            self._thread.join(15)

    def _run(self) -> None:
        with self._client:
            self._client.start()
            free = self._subscribe() and self._wait()
        if free:
            log.info("the other instance of %s has left; this one continues", self._id)
            self._resume()

    def _subscribe(self) -> bool:
        while not self._stop.is_set():
            try:
                self._client.subscribe(Subscription(self._topic), timeout=5.0)
                return True
            except SubscriptionDenied as error:
                log.error("%s; this instance cannot see when the other one leaves", error)  # noqa: TRY400
                return not self._stop.wait(UNHEARD_SECONDS)
            except MqttkitError:
                continue  # the client keeps connecting
        return False

    def _wait(self) -> bool:
        """Wait until the other instance is offline or silent; return False after `close`."""
        began, heard = time.monotonic(), False
        while not self._stop.is_set():
            try:
                message = self._inbox.get(timeout=_LOOK_SECONDS)
                self._book.note(message.topic, message.payload, retained=message.retain)
            except queue.Empty:
                pass
            online = any(row["status"] == "online" for row in self._book.rows())
            heard = heard or online
            if not online and (heard or time.monotonic() - began > UNHEARD_SECONDS):
                return True
        return False
