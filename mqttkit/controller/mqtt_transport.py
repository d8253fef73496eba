"""MQTT as a transport: a client with a session that the broker keeps, acknowledging by hand after the commit."""

from __future__ import annotations

import functools
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import replace

from mqttkit.client import ConnectionState, MqttClient
from mqttkit.controller.transport import Delivery, Receive, Ticket, settled
from mqttkit.errors import MqttkitError
from mqttkit.messages import Message, Subscription, Will
from mqttkit.settings import MqttSettings

log = logging.getLogger(__name__)

COPY_SECONDS = 5.0
"""How long after a change of client identifier copies may come that two sessions were owed."""
SESSION_SECONDS = 24 * 3600
"""How long the broker keeps the session of a controller that is away."""


class MqttTransport:
    """One controller's connection to the broker."""

    name = "mqtt"

    def __init__(
        self,
        settings: MqttSettings,
        client_id: str,
        *,
        will: Callable[[], Will] | None = None,
        keep_session: bool = True,
    ) -> None:
        self._settings = settings
        self._will = will
        self._keep_session = keep_session
        self._receive: Receive | None = None
        self._wake: Callable[[], None] = lambda: None
        self._filters: list[str] = []
        self._open_filters: set[str] = set()
        self._subscriber: threading.Thread | None = None
        self._lock = threading.Lock()
        self._copies_until = 0.0
        self.client = self._make(client_id)

    @property
    def available(self) -> bool:
        """True while connected."""
        return self.client.connected

    def start(self, receive: Receive, wake: Callable[[], None]) -> None:
        """Begin to connect, for ever."""
        self._receive, self._wake = receive, wake
        self.client.start()

    def subscribe(self, topic_filter: str) -> None:
        """Subscribe at QoS 1 at once where connected, else when connected; raise SubscriptionDenied."""
        if topic_filter not in self._filters:
            self._filters.append(topic_filter)
        if self.client.connected:
            self.client.subscribe(Subscription(topic_filter, qos=1))
        else:
            with self._lock:
                self._open_filters.add(topic_filter)

    def send(self, topic: str, data: bytes, *, qos: int, retain: bool) -> Ticket:
        """Publish; taken over with the PUBACK."""
        if not self.client.connected:
            return settled(False)
        return self.client.publish(topic, data, qos=qos, retain=retain)

    def change_client_id(self, client_id: str) -> None:
        """Go on as another client: the new one is connected and subscribed before the old one leaves.

        What both receive meanwhile is told apart by its message_id. Raises BrokerUnreachable, SubscriptionDenied.
        """
        self._copies_until = float("inf")
        old, self.client = self.client, self._make(client_id)
        try:
            self.client.connect(timeout=10)
            if self._filters:
                self.client.subscribe(*(Subscription(one, qos=1) for one in self._filters))
        except MqttkitError:
            self.client.close(flush=0)
            self.client = old
            self._copies_until = 0.0
            raise
        if old.connected and self._filters:
            old.unsubscribe(*self._filters)
        old.close()
        self._copies_until = time.monotonic() + COPY_SECONDS

    def close(self) -> None:
        """Disconnect."""
        self.client.close()
        if self._subscriber is not None and self._subscriber is not threading.current_thread():
            self._subscriber.join(15)

    def _make(self, client_id: str) -> MqttClient:
        session = replace(
            self._settings.client,
            client_id=client_id,
            clean_session=not self._keep_session,
            session_expiry=SESSION_SECONDS if self._keep_session else 0,
        )
        client = MqttClient(
            replace(self._settings, client=session),
            will=self._will() if self._will is not None else None,
            on_messages=lambda messages: self._take(client, messages),
            on_state=self._changed,
            manual_ack=True,
        )
        return client

    def _take(self, client: MqttClient, messages: list[Message]) -> None:
        """Hand messages on, in the network thread; each is acknowledged on the client that it came by."""
        if self._receive is None:
            return
        again = time.monotonic() < self._copies_until
        self._receive([self._delivery(client, one, again) for one in messages])

    def _delivery(self, client: MqttClient, message: Message, again: bool) -> Delivery:
        ack = functools.partial(client.ack, message)
        return Delivery(message.topic, message.payload, self.name, message.dup or again, ack)

    def _changed(self, state: ConnectionState, _reason: str) -> None:
        """Make the subscriptions that wait for a connection, in a thread that may wait for the SUBACK."""
        with self._lock:
            waiting = state is ConnectionState.CONNECTED and bool(self._open_filters)
            idle = self._subscriber is None or not self._subscriber.is_alive()
            if waiting and idle:
                self._subscriber = threading.Thread(target=self._subscribe_waiting, name="subscribe", daemon=True)
                self._subscriber.start()
        self._wake()

    def _subscribe_waiting(self) -> None:
        with self._lock:
            waiting = sorted(self._open_filters)
        for topic_filter in waiting:
            try:
                self.client.subscribe(Subscription(topic_filter, qos=1))
            except MqttkitError as error:
                log.warning("cannot subscribe: %s", error)
                continue
            with self._lock:
                self._open_filters.discard(topic_filter)
        self._wake()
