"""`MqttClient`: what the rest of mqttkit publishes and subscribes with."""

from __future__ import annotations

import dataclasses
import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from types import TracebackType

from paho.mqtt.enums import MQTTErrorCode

from mqttkit.addresses import show_address
from mqttkit.client.connection import Connection
from mqttkit.client.connection_setup import make_connection, set_will
from mqttkit.client.message_queue import MessageQueue
from mqttkit.client.network_thread import Hooks, NetworkThread
from mqttkit.client.packets.reason_codes import DENIED
from mqttkit.client.publishing import PublishingClient
from mqttkit.client.reconnect import ReconnectPolicy
from mqttkit.client.sending.outbox import Outbox
from mqttkit.client.sending.send_limits import BrokerLimits
from mqttkit.client.state import ConnectionState, StateLog
from mqttkit.client.stats import ClientStats
from mqttkit.client.subscriptions import Subscriptions, denial
from mqttkit.errors import BrokerUnreachable, MqttkitError, SubscriptionDenied, UsageError
from mqttkit.messages import Message, Subscription, Will
from mqttkit.settings import MqttSettings
from mqttkit.topics import check_topic_filter

log = logging.getLogger(__name__)


class MqttClient(PublishingClient):
    """A client of one broker, or of several hosts that it tries in turn.

    Any thread may call the public methods, except the network thread, in which the handlers run. Handlers may only
    call `publish` and `ack`.

    `on_message` gets received messages one at a time, `on_messages` in lists; `on_state` gets each change of state and
    its reason. Handlers must not block. If a handler raises, the client logs and counts the exception.
    """

    def __init__(
        self,
        settings: MqttSettings,
        *,
        will: Will | None = None,
        on_message: Callable[[Message], None] | None = None,
        on_messages: Callable[[list[Message]], None] | None = None,
        on_state: Callable[[ConnectionState, str], None] | None = None,
        manual_ack: bool = False,
        retry: bool = True,
    ) -> None:
        self.settings = settings
        self.state = ConnectionState.IDLE
        self.reason = ""
        self._number = 0
        """Number of the connection, counted from 1."""
        self.session_present = self.connected = False
        self.denied: dict[str, str] = {}
        """Topic filters that the broker denied after a reconnect, and why."""
        self.on_denied: Callable[[SubscriptionDenied], None] | None = None
        """Gets each of those denials, in the network thread, instead of the log. Set it before connecting."""
        self._on_message, self._on_messages = on_message, on_messages
        self._on_state = on_state
        self._stats = ClientStats()
        self._outbox = Outbox(settings.limits, keeps_session=not settings.client.clean_session)
        self._condition = threading.Condition()
        self._state_log = StateLog()
        self._closed = self._failure_is_raised = False
        will_topic = will.topic if will is not None else ""
        self._policy = ReconnectPolicy(settings, make_identifier=_new_identifier, will_topic=will_topic, retry=retry)
        self._connection = self._make_connection(will, manual_ack=manual_ack)
        no_handler = on_message is None and on_messages is None
        self._queue = MessageQueue(self._connection.hold_reading) if no_handler else None
        self._thread = self._make_thread()
        self._subscribed = self._make_subscriptions()

    def _make_connection(self, will: Will | None, *, manual_ack: bool) -> Connection:
        connection = make_connection(self.settings, self.client_id, will=will, manual_ack=manual_ack)
        connection.on_answer = self._handle_suback
        connection.attach(self._outbox, self._handle_messages)
        return connection

    def _make_thread(self) -> NetworkThread:
        hooks = Hooks(
            self._set_state, self._handle_accepted, self._handle_refused, self._handle_ended, self._handle_due
        )
        return NetworkThread(self._connection, self._policy, settings=self.settings.client, hooks=hooks)

    def _make_subscriptions(self) -> Subscriptions:
        return Subscriptions(
            self._connection,
            self._policy,
            self._condition,
            is_current=lambda number: self.connected and self._number == number,
            remember_topic=self._thread.remember_topic,
        )

    def replace_will(self, will: Will) -> None:
        """Use another will from the next connection on."""
        set_will(self._connection, will)

    # --- connecting ---------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to connect and return immediately; the network thread reconnects whenever the connection ends."""
        if self.state is not ConnectionState.IDLE:
            return
        self.state = ConnectionState.CONNECTING
        self._thread.start()

    def connect(self, *, timeout: float | None = None) -> None:
        """Connect, and wait for the CONNACK at most `timeout` seconds.

        Raises BrokerUnreachable or ConnectionRefused when each address has failed once; the client is closed then.
        """
        self._failure_is_raised = True
        self.start()
        with self._condition:
            self._condition.wait_for(lambda: self.connected or self._ended or self._policy.rounds_failed > 0, timeout)
            if self.connected:
                self._failure_is_raised = False
                return
        self.close(flush=0)
        for error in self._policy.round_failures[:-1]:
            log.warning("%s", error)
        cause = f"no CONNACK within {timeout} s" if timeout is not None else "the client was closed"
        raise self._policy.failure or BrokerUnreachable(show_address(*self.address), "mqtt", cause)

    def wait_connected(self, timeout: float) -> bool:
        """Wait up to `timeout` seconds for a CONNACK that accepts."""
        with self._condition:
            self._condition.wait_for(lambda: self.connected or self._ended, timeout)
            return self.connected

    @property
    def _ended(self) -> bool:
        """True if the client no longer connects: it was closed, it gave up, or its network thread has ended."""
        return self._closed or self._policy.given_up or self.state is ConnectionState.CLOSED

    @property
    def client_id(self) -> str:
        """The client identifier; one that the client made up is replaced if another client uses it too."""
        return self._policy.client_id

    @property
    def failure(self) -> MqttkitError | None:
        """Why the client is not connected; None if it is, or if the cause is unknown."""
        return self._policy.failure

    @property
    def given_up(self) -> bool:
        """True if the client no longer tries to connect: `failure` says why."""
        return self._policy.given_up

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of the current or the latest connection attempt."""
        return self._policy.address

    @property
    def protocol_version(self) -> int:
        """5, or 4 for MQTT 3.1.1."""
        return self._policy.version

    @property
    def broker_limits(self) -> BrokerLimits:
        """What the broker takes, as its latest CONNACK says."""
        return self._outbox.broker

    @property
    def stats(self) -> ClientStats:
        """A snapshot of the counters."""
        published, dropped = Counter(self._outbox.counts), Counter(self._outbox.dropped)
        sent_bytes = self._connection.sent_bytes
        return dataclasses.replace(self._stats, sent_bytes=sent_bytes, published=published, dropped=dropped)

    @property
    def unresolved(self) -> int:
        """Number of publishes whose outcome is not known yet."""
        return self._outbox.unresolved

    # --- publishing ---------------------------------------------------------------------------------------

    def flush(self, timeout: float) -> bool:
        """Wait up to `timeout` seconds until no publish is unresolved."""
        return self._outbox.flush(timeout)

    # --- subscribing --------------------------------------------------------------------------------------

    def subscribe(self, *filters: Subscription | str, qos: int = 0, timeout: float = 10.0) -> list[int]:
        """Subscribe, wait for the SUBACK up to `timeout` seconds, and return the QoS granted for each filter.

        `qos` applies to topic filters given as text; a `Subscription` has its own. The client subscribes again
        whenever the broker has lost the session. Any thread but the network thread may call it.
        Raises SubscriptionDenied for the first filter that the broker denies, BrokerUnreachable if no SUBACK arrives,
        and TopicError if a filter is malformed.
        """
        subscriptions = [Subscription(each, qos) if isinstance(each, str) else each for each in filters]
        for subscription in subscriptions:
            check_topic_filter(subscription.topic_filter)
        deadline = time.monotonic() + timeout
        if not self.wait_connected(timeout):
            raise self._subscribed.no_answer("no connection to subscribe on")
        return self._subscribed.subscribe(subscriptions, self._number, deadline)

    def messages(self, timeout: float | None = None) -> Iterator[Message]:
        """Iterate over the messages received, in order. One thread at a time may iterate.

        Ends when the client is closed, or when no message arrives for `timeout` seconds; None waits indefinitely.
        Messages that arrived before it ended are yielded first. If the reader is slower than the broker, the client
        stops reading until there is room again. Raises the failure if the client gives up the connection.
        Only for a client without `on_message` and `on_messages`, and after `connect` or `start`.
        """
        if self._queue is None:
            raise UsageError("messages() needs a client without on_message and on_messages: the handler gets them")
        if self.state is ConnectionState.IDLE:
            raise UsageError("the client is not connected", hint="Call connect() first")
        while (batch := self._queue.get(timeout)) is not None:
            yield from batch.messages
        if self._queue.error is not None:
            raise self._queue.error

    def unsubscribe(self, *topic_filters: str, timeout: float = 10.0) -> None:
        """Unsubscribe, and wait for the UNSUBACK up to `timeout` seconds."""
        self._subscribed.unsubscribe(topic_filters, self._number, time.monotonic() + timeout)

    def ack(self, message: Message) -> bool:
        """Acknowledge a message received with `manual_ack`; return False if its connection has ended.

        A packet identifier means nothing on another connection, and an acknowledgement must not overtake CONNECT.
        """
        with self._condition:
            if not self.connected or message.epoch != self._number:
                return False
            return self._connection.ack(message.mid, message.qos) == MQTTErrorCode.MQTT_ERR_SUCCESS

    def pause_reading(self, paused: bool) -> None:
        """Stop or resume reading. While reading is paused, TCP holds the broker back and the keep alive continues.

        For a receiver that is slower than the broker. Messages already read are still delivered. Any thread.
        """
        self._connection.pause_reading(paused)

    # --- closing ------------------------------------------------------------------------------------------

    def close(self, *, flush: float = 5.0) -> None:
        """Wait up to `flush` seconds for unresolved publishes, send DISCONNECT, end the network thread. Idempotent."""
        with self._condition:
            if self._closed:
                return
            self._closed = True
            self._condition.notify_all()
        if self.connected and flush > 0:
            self._outbox.flush(flush)
        self._thread.closing.set()
        self._connection.pause_reading(False)
        self._connection.hold_reading(0)
        self._outbox.close("closed before it was acknowledged")
        self._connection.drop_out_messages()
        if self.state is not ConnectionState.IDLE:
            self._thread.stop()
        self._set_state(ConnectionState.CLOSED, "")

    def __enter__(self) -> MqttClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(flush=5.0 if kind is None else 0.0)

    # --- inside: state ------------------------------------------------------------------------------------

    def _set_state(self, state: ConnectionState, reason: str) -> None:
        with self._condition:
            changed = (state, reason) != (self.state, self.reason)
            self.state, self.reason = state, reason
            if state is ConnectionState.CLOSED:
                self.connected = False
            self._condition.notify_all()
        if state is ConnectionState.CLOSED:
            self._outbox.close("the client is closed")
            if self._queue is not None:
                self._queue.end(self.failure if self.given_up else None)
        if changed:
            if self.connected or not self._failure_is_raised:
                self._state_log.record(state, reason, str(self._policy.failure or reason), self.client_id)
            if self._on_state is not None:
                self._guard(self._on_state, state, reason)

    def _guard(self, handler: Callable[..., None], *arguments: object) -> None:
        """Call a handler; what it raises must not reach paho, whose thread would die of it."""
        try:
            handler(*arguments)
        except Exception:
            self._stats.handler_errors += 1
            log.exception("a handler failed")

    # --- inside: news from the network thread -------------------------------------------------------------

    def _handle_refused(self) -> None:
        """The broker refused the connection."""
        self._stats.refusals += 1

    def _handle_accepted(self, session_present: bool) -> None:
        """The broker accepted the connection; comes before any message."""
        if not session_present:
            self._connection.drop_out_messages()
            self._outbox.lose("the broker kept no session", keep_acknowledged=False)
        self._subscribed.forget_answers()
        self._subscribed.subscribe_again(session_present=session_present)
        with self._condition:
            self._stats.connects += 1
            self._number += 1
            self._connection.epoch = self._number
            self.session_present = session_present
            self.connected = True
        self._set_state(ConnectionState.CONNECTED, show_address(*self.address))

    def _handle_ended(self) -> None:
        """The connection ended, accepted or not."""
        with self._condition:
            was_connected, self.connected = self.connected, False
            self._condition.notify_all()
        if was_connected:
            self._stats.disconnects += 1
        if self.settings.client.clean_session:
            self._connection.drop_out_messages()
        self._outbox.lose("the connection ended", keep_acknowledged=not self.settings.client.clean_session)

    def _handle_due(self, now: float) -> None:
        """Repeat subscriptions whose time has come."""
        if now >= self._subscribed.retry_at:
            self._subscribed.retry()

    def _handle_suback(self, mid: int, codes: list[int]) -> None:
        for topic_filter, code in self._subscribed.answered(mid, codes):
            self.denied.pop(topic_filter, None)
            if code >= DENIED:
                self._note_denied(denial(topic_filter, code))

    def _note_denied(self, error: SubscriptionDenied) -> None:
        self.denied[error.topic_filter] = error.reason
        if self.on_denied is not None:
            self._guard(self.on_denied, error)
        elif self._queue is not None and self._queue.has_reader:
            self._queue.end(error)
        else:
            log.error("%s", error)

    def _handle_messages(self, messages: list[Message]) -> None:
        self._stats.received += len(messages)
        if self._queue is not None:
            self._queue.put(messages)
        elif self._on_messages is not None:
            self._guard(self._on_messages, messages)
        elif self._on_message is not None:
            for message in messages:
                self._guard(self._on_message, message)


def _new_identifier() -> str:
    return f"mqttkit-{os.urandom(6).hex()}"
