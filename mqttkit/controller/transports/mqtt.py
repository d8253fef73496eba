"""MQTT as a transport: a client with a persistent session, which acknowledges messages after the commit."""

from __future__ import annotations

import functools
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import replace

from mqttkit.client import ConnectionState, MqttClient
from mqttkit.controller.store import Store
from mqttkit.controller.transports.types import Receive, ReceivedMessage, Ticket, settled
from mqttkit.errors import MqttkitError, SubscriptionDenied
from mqttkit.messages import Message, Subscription, Will
from mqttkit.settings import MqttSettings

log = logging.getLogger(__name__)

COPY_SECONDS = 5.0
"""Seconds after a change of client identifier during which both sessions may deliver a copy."""
AGAIN_SECONDS = 1.0
"""Seconds before a subscription that the broker did not answer is tried again."""
RENEW_SECONDS = 5.0
"""Seconds to wait for pending publishes before the transport connects again with another will."""
SESSION_SECONDS = 24 * 3600
"""Seconds for which the broker keeps the session of a disconnected controller."""


class MqttTransport:
    """One controller's connection to the broker."""

    name = "mqtt"

    def __init__(
        self,
        settings: MqttSettings,
        client_id: str,
        *,
        will: Callable[[int], Will] | None = None,
        keep_session: bool = True,
    ) -> None:
        self._settings = settings
        self._will = will
        self._keep_session = keep_session
        self._receive: Receive | None = None
        self._wake: Callable[[], None] = lambda: None
        self._filters: dict[str, int] = {}
        """Each topic filter with the QoS of its subscription."""
        self._open_filters: set[str] = set()
        self._denied_filters: set[str] = set()
        self._subscriber: threading.Thread | None = None
        self._lock = threading.Lock()
        self._swapping = threading.Lock()
        """Held while the client is replaced or closed."""
        self._ended = threading.Event()
        self._copies_until = 0.0
        self.connection = 0
        """Number of connections so far; each one has its own will."""
        self.client = self._make(client_id)

    @property
    def available(self) -> bool:
        """True while connected."""
        return self.client.connected

    @property
    def shows_subscribers(self) -> bool:
        """True if the broker reports that a message has no subscriber: MQTT 5 does, MQTT 3.1.1 does not."""
        return self.client.protocol_version == 5

    def start(self, receive: Receive, wake: Callable[[], None]) -> None:
        """Start connecting, and keep trying until closed."""
        self._receive, self._wake = receive, wake
        self.client.start()

    def subscribe(self, topic_filter: str, qos: int = 1) -> None:
        """Subscribe, now or with the next connection; raise SubscriptionDenied.

        The filter is queued before the connection is checked, so a connection established meanwhile finds it.
        """
        with self._lock:
            self._filters[topic_filter] = qos
            self._open_filters.add(topic_filter)
        if not self.client.connected:
            return
        try:
            self._subscribe_now(topic_filter)
        except SubscriptionDenied:
            with self._lock:
                self._filters.pop(topic_filter, None)
                self._open_filters.discard(topic_filter)
            raise
        except MqttkitError as error:
            log.warning("not subscribed to %s yet: %s", topic_filter, error)
            self._subscribe_later()

    def unsubscribe_all_but(self, wanted: list[str], store: Store) -> None:
        """End the subscriptions in the store that are not wanted, if connected; raise MqttkitError."""
        if not self.client.connected:
            return
        for topic_filter in set(store.subscriptions()) - set(wanted):
            self.client.unsubscribe(topic_filter)
            store.delete_subscription(topic_filter)
            log.info("unsubscribed from %s, a topic of an earlier run", topic_filter)

    def send(self, topic: str, data: bytes, *, qos: int, retain: bool) -> Ticket:
        """Publish; the PUBACK settles the ticket.

        A retained message waits for a pending subscription to its own topic: the broker must deliver the retained
        message that it replaces first.
        """
        if not self.client.connected or (retain and qos and self.is_pending(topic)):
            return settled(False)
        return self.client.publish(topic, data, qos=qos, retain=retain)

    def is_pending(self, topic_filter: str) -> bool:
        """Return True until the broker has answered the subscription."""
        with self._lock:
            return topic_filter in self._open_filters and topic_filter not in self._denied_filters

    def renew_will(self) -> None:
        """Connect again, so that the broker gets a will signed with the key that signs now. The session continues."""
        with self._swapping:
            if self.client.connected:  # without a connection, the next one gets a new will anyway
                self.client.close(flush=RENEW_SECONDS)
                self._start_again()

    def stand_down(self) -> None:
        """Leave the broker to another instance with the same client identifier, until `resume`."""
        with self._swapping:
            self.client.close(flush=0)
        self._wake()

    def resume(self) -> None:
        """Connect again after `stand_down`."""
        with self._swapping:
            self._start_again()

    def _start_again(self) -> None:
        """Replace the closed client with one that subscribes to everything again."""
        if self._ended.is_set():
            return
        with self._lock:
            self._open_filters.update(self._filters)
        self.client = self._make(self.client.client_id)
        self.client.start()

    def change_client_id(self, client_id: str) -> None:
        """Continue as another client: the new client connects and subscribes before the old one leaves.

        Messages that both receive meanwhile are recognised by their message_id.
        Raises BrokerUnreachable, SubscriptionDenied.
        """
        self._copies_until = float("inf")
        old, self.client = self.client, self._make(client_id)
        try:
            self.client.connect(timeout=10)
            if self._filters:
                self.client.subscribe(*(Subscription(one, qos=qos) for one, qos in self._filters.items()))
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
        self._ended.set()
        with self._swapping:
            self.client.close()
        with self._lock:
            subscriber = self._subscriber
        if subscriber is not None and subscriber is not threading.current_thread():
            subscriber.join(15)

    def _make(self, client_id: str) -> MqttClient:
        session = replace(
            self._settings.client,
            client_id=client_id,
            clean_session=not self._keep_session,
            session_expiry=SESSION_SECONDS if self._keep_session else 0,
        )
        client = MqttClient(
            replace(self._settings, client=session),
            will=self._will(self.connection + 1) if self._will is not None else None,
            on_messages=lambda messages: self._take(client, messages),
            on_state=lambda state, reason: self._changed(client, state, reason),
            manual_ack=True,
        )
        return client

    def _take(self, client: MqttClient, messages: list[Message]) -> None:
        """Pass messages on, in the network thread; each is acknowledged on the client that received it."""
        if self._receive is None:
            return
        again = time.monotonic() < self._copies_until
        self._receive([self._delivery(client, one, again) for one in messages])

    def _delivery(self, client: MqttClient, message: Message, again: bool) -> ReceivedMessage:
        ack = functools.partial(client.ack, message)
        return ReceivedMessage(message.topic, message.payload, self.name, message.dup or again, ack)

    def _changed(self, client: MqttClient, state: ConnectionState, _reason: str) -> None:
        if state is ConnectionState.CONNECTED:
            self.connection += 1
            if self._will is not None:
                client.replace_will(self._will(self.connection + 1))
            if client.session_present:  # the broker may have restored the session without our subscriptions
                with self._lock:
                    self._open_filters.update(self._filters)
            self._subscribe_later()
        self._wake()

    # --- pending subscriptions, made in a thread that may wait for the SUBACK -------------------------------

    def _subscribe_later(self) -> None:
        with self._lock:
            idle = self._subscriber is None or not self._subscriber.is_alive()
            if self._open_filters and idle and not self._ended.is_set():
                self._subscriber = threading.Thread(target=self._subscribe_waiting, name="subscribe", daemon=True)
                self._subscriber.start()

    def _subscribe_waiting(self) -> None:
        denied: set[str] = set()
        while waiting := self._still_open(denied):
            for topic_filter in waiting:
                try:
                    self._subscribe_now(topic_filter)
                except SubscriptionDenied as error:
                    log.error("%s", error)  # noqa: TRY400  # the message is complete; the next connection tries again
                    denied.add(topic_filter)
                    self._denied_filters = denied
                except MqttkitError as error:
                    log.warning("not subscribed to %s yet: %s", topic_filter, error)
                    self._ended.wait(AGAIN_SECONDS)
        self._wake()

    def _still_open(self, denied: set[str]) -> list[str]:
        """Return the filters to subscribe to now; without any, mark the thread as ended, so that another may start."""
        with self._lock:
            able = self.client.connected and not self._ended.is_set()
            waiting = sorted(self._open_filters - denied) if able else []
            if not waiting:
                self._subscriber = None
            return waiting

    def _subscribe_now(self, topic_filter: str) -> None:
        self.client.subscribe(Subscription(topic_filter, qos=self._filters.get(topic_filter, 1)))
        with self._lock:
            self._open_filters.discard(topic_filter)
