"""The parts that every controller has: transports, sender, receiver, heartbeats."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, ClassVar, TypeVar

from mqttkit.controller.configuration import listen_address, open_codec, state_file
from mqttkit.controller.handover.outbox import ReportOutbox
from mqttkit.controller.handover.receipts import ReceiptBook, ReportReceipt, ReturnAddress
from mqttkit.controller.handover.sender import Sender
from mqttkit.controller.held_messages import HeldMessages
from mqttkit.controller.messages.envelope import Envelope, new_message_id
from mqttkit.controller.messages.topics import GLOBAL, SYSTEM, Kind, Place, Topics
from mqttkit.controller.policies import Policy
from mqttkit.controller.policy_issuer import PolicyIssuer
from mqttkit.controller.receiver import Receiver
from mqttkit.controller.security.gate import Codec, Gate
from mqttkit.controller.store import Store
from mqttkit.controller.transports.in_process import MemoryBus
from mqttkit.controller.transports.mqtt import MqttTransport
from mqttkit.controller.transports.opening import open_transports
from mqttkit.controller.transports.types import Promise
from mqttkit.errors import ConfigError, MqttkitError, StoreFailed, SubscriptionDenied
from mqttkit.messages import Will
from mqttkit.settings import ControllerSettings, MqttSettings

EventHandler = Callable[[Envelope], None]
PolicyHandler = Callable[[Policy], None]
Self = TypeVar("Self", bound="Controller")

log = logging.getLogger(__name__)

CATCH_UP_SECONDS = 300.0
"""For how long after a reconnect the gate accepts messages that the broker kept meanwhile."""
_bus = MemoryBus()
"""The bus that all controllers of this process share by default."""


class Controller:
    """One controller. `connect_mqtt` starts it and `disconnect_mqtt` ends it; a `with` block does both.

    Any thread may call the public methods. A handler may call only those whose docstring allows it.
    Handlers run in the receiver's thread, one at a time, and may publish.
    """

    role: ClassVar[str] = "controller"

    def __init__(
        self,
        settings: ControllerSettings,
        mqtt: MqttSettings,
        *,
        codec: Codec | None = None,
        store: Store | None = None,
        bus: MemoryBus | None = None,
    ) -> None:
        if settings.id is None:
            raise ConfigError("a controller needs an identifier", where="controller.id", hint="Give one: --id NAME")
        self.settings = settings
        self.controller_id = settings.id
        self.topics = Topics(settings.base)
        self.topics.status(settings.id)
        self._codec = codec or open_codec(settings)
        if settings.http_listen is not None:
            listen_address(settings.http_listen)
        self._store = store or Store(state_file(settings))
        self._incarnation = new_message_id()
        self._event_handler: EventHandler | None = None
        self._policy_handler: PolicyHandler | None = None
        self._filters: list[str] = []
        self._was_connected = False
        self._available: list[str] = []
        self._waking = threading.Lock()
        self._heartbeat_due, self._stop = threading.Event(), threading.Event()
        self._started = self._closed = False
        self._gate = Gate(self._codec, self._store, skew=settings.clock_skew)
        self._receiver = self._make_receiver()
        self._held = HeldMessages(self._receiver.take)
        scope, wake = self.issues, self._heartbeat_due.set
        self._issuer = None if scope is None else PolicyIssuer(scope, self._store, self._send_policy, wake)
        self.transports = open_transports(settings, mqtt, self.topics, self._codec, will=self._will, bus=bus or _bus)
        self.mqtt = next((one for one in self.transports if isinstance(one, MqttTransport)), None)
        self._sender = Sender(
            self.transports, self._codec, outbox=self._open_outbox(), on_denied=self._store.save_dead_letter
        )
        self._heartbeat_thread = threading.Thread(target=self._run_heartbeats, name="heartbeat", daemon=True)

    # --- start and end ---------------------------------------------------------------------------------------------

    def connect_mqtt(self, timeout: float = 5.0) -> bool:
        """Start all transports and wait up to `timeout` seconds for the broker.

        Returns False if it cannot connect in time: the controller uses its other transports and keeps trying.
        Raises PortTaken or LifecycleError if it cannot serve HTTP; the controller is closed then.
        """
        if not self._started:
            try:
                for transport in self.transports:
                    transport.start(self._held.take, self._wake)
            except MqttkitError:
                self.disconnect_mqtt(flush=0)
                raise
            self._started = True
            self._held.start()
            self._subscribe_own()
            if restored := self._sender.restore():
                log.info("%d reports of the last run have no receipt yet; sending them again", restored)
            self._sender.start()
            self._heartbeat_thread.start()
        return self.mqtt is not None and self.mqtt.client.wait_connected(timeout)

    def disconnect_mqtt(self, *, flush: float = 5.0) -> None:
        """Send waiting messages for up to `flush` seconds, report offline, end transports and threads. Idempotent."""
        if self._closed:
            return
        self._closed = True
        self._sender.close(flush=flush)
        self._stop.set()
        self._heartbeat_due.set()
        if self._started:
            self._heartbeat_thread.join(10)
            self._say("offline")
        self._held.close()
        self._receiver.close()  # before the transports, so that handled messages are still acknowledged
        for transport in self.transports:
            transport.close()
        try:
            self._store.close()
        except StoreFailed as error:
            log.warning("%s; messages that were not acknowledged will be delivered again", error)

    def __enter__(self: Self) -> Self:
        self.connect_mqtt()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.disconnect_mqtt(flush=5.0 if kind is None else 0.0)

    # --- what every role can do ---------------------------------------------------------------------------

    def publish_event(self, name: str, data: Mapping[str, Any] | None = None, *, scope: str = SYSTEM) -> Promise:
        """Publish an event to all controllers (`system`) or to one region. A handler may call this."""
        region = GLOBAL if scope == SYSTEM else scope
        return self._publish("event", self.topics.events(scope), {"event": name, "data": data or {}}, region=region)

    def subscribe_to_events(self, handler: EventHandler, *, scope: str = SYSTEM) -> None:
        """Receive the events of the system or of one region; raise SubscriptionDenied."""
        self._event_handler = handler
        self._subscribe(self.topics.events(scope))

    def subscribe_to_policy_updates(self, handler: PolicyHandler | None = None) -> None:
        """Follow the global policy and this region's policy; `handler` gets each newer version."""
        self._policy_handler = handler
        self._subscribe(self.topics.policy(GLOBAL))
        self._subscribe(self.topics.policy(self.settings.region))

    def policy(self, scope: str = GLOBAL) -> Policy | None:
        """Return the global policy in force, or a region's."""
        return self._receiver.policies.current(scope)

    def flush(self, timeout: float) -> bool:
        """Wait up to `timeout` seconds until every message is settled; return whether it is.

        A receipt settles a report, a transport that accepts it any other message.
        """
        return self._sender.flush(timeout)

    @property
    def unsent(self) -> int:
        """Number of messages that no transport has accepted, or whose receipt is missing."""
        return self._sender.waiting

    @property
    def taken(self) -> int:
        """Number of reports that a transport has taken, but that have no receipt yet."""
        return self._sender.taken

    def status(self) -> dict[str, Any]:
        """Return the content of the heartbeat: transport in use, hops, counters, policies."""
        scopes = (GLOBAL, self.settings.region)
        policies = {scope: policy.version for scope in scopes if (policy := self.policy(scope)) is not None}
        return {
            "role": self.role,
            "region": self.settings.region,
            "transport": self._sender.current,
            "available": [one.name for one in self.transports if one.available],
            "hops": self._sender.hops,
            "sent": dict(self._sender.sent),
            "unsent": self._sender.waiting,
            "without_receipt": self._sender.taken,
            "unanswered": self._sender.unanswered,
            "dropped": self._sender.dropped,
            "denied": self._sender.denied,
            "counters": dict(self._receiver.counters),
            "policies": policies,
        }

    def _publish(
        self,
        message_type: str,
        topic: str,
        payload: Mapping[str, Any],
        *,
        region: str = "",
        retain: bool = False,
        needs_receipt: bool = False,
    ) -> Promise:
        envelope = self._envelope(message_type, payload, region)
        return self._sender.put(envelope, topic, retain=retain, needs_receipt=needs_receipt)

    def _envelope(self, message_type: str, payload: Mapping[str, Any], region: str = "") -> Envelope:
        return Envelope(
            message_id=new_message_id(),
            message_type=message_type,
            sender_id=self.controller_id,
            region=region or self.settings.region,
            timestamp=time.time_ns() // 1_000_000,
            sequence=self._store.next_number("sequence"),
            payload=payload,
        )

    def _send_policy(self, policy: Policy) -> Promise:
        topic = self.topics.policy(policy.scope)
        return self._publish("policy.update", topic, policy.to_payload(), region=policy.scope, retain=True)

    @property
    def issues(self) -> str | None:
        """The scope whose policy this controller publishes: `global`, its region, or None."""
        return None

    def _open_outbox(self) -> ReportOutbox | None:
        """Return the outbox in which unsent messages survive a restart; local controllers have one."""
        return None

    def _subscribe_own(self) -> None:
        """Subscribe to the policy that this controller publishes, to see what others make of it."""
        if self.issues is None:
            return
        try:
            self._subscribe(self.topics.policy(self.issues))
        except SubscriptionDenied as error:
            log.warning("%s; this controller cannot notice when its policy is replaced", error)

    def _reassert_policy(self) -> None:
        """Publish the own policy again if that is due."""
        if self._issuer is None:
            return
        try:
            self._issuer.reassert(self._codec.signer_id(self.controller_id))
        except MqttkitError as error:
            log.warning("cannot publish the policy of %s again: %s", self._issuer.scope, error)

    def _policy_replaced(self, place: Place, envelope: Envelope | None, *, newer: bool) -> None:
        """Another policy message than the one in force arrived. Runs in the receiver's thread."""
        if self._issuer is None or place.region != self._issuer.scope:
            return
        by_rival = envelope is not None and envelope.sender_id != self.controller_id
        if by_rival:
            self._receiver.counters["rival_policies"] += 1
        self._issuer.replaced(envelope, by_rival=by_rival, newer=newer)

    def _subscribe(self, topic_filter: str) -> None:
        if topic_filter in self._filters:
            return
        for transport in self.transports:
            transport.subscribe(topic_filter)
        self._filters.append(topic_filter)
        self._held.subscribed(topic_filter)
        if self.settings.keep_session:
            self._store.save_subscription(topic_filter)

    def _handle_report(self, place: Place, envelope: Envelope) -> None:
        """Handle a discovery report; regional controllers override this."""

    def _handle_receipt(self, place: Place, envelope: Envelope) -> None:
        """Handle a receipt for reports; local controllers override this."""

    def _send_receipt(self, address: ReturnAddress, receipt: ReportReceipt) -> None:
        """Send a receipt the way that the reports came. A lost one is not repeated: the sender repeats the report."""
        topic = self.topics.receipts(address.region, address.controller_id)
        try:
            data = self._codec.wrap(self._envelope("receipt", receipt.to_payload(), address.region), topic)
            next(one for one in self.transports if one.name == address.transport).send(topic, data, qos=1, retain=False)
        except MqttkitError as error:
            log.warning("cannot send a receipt to %s: %s", address.controller_id, error)

    def _handle_status(self, place: Place, envelope: Envelope) -> None:
        """Handle a heartbeat; a watcher overrides this."""

    def _handle_event(self, place: Place, envelope: Envelope) -> None:
        if self._event_handler is not None:
            self._event_handler(envelope)

    def _handle_policy(self, policy: Policy) -> None:
        if self._policy_handler is not None:
            self._policy_handler(policy)

    def _make_receiver(self) -> Receiver:
        handlers = {
            Kind.DISCOVERY: self._handle_report,
            Kind.EVENT: self._handle_event,
            Kind.STATUS: self._handle_status,
            Kind.RECEIPT: self._handle_receipt,
        }
        return Receiver(
            self.topics,
            self._gate,
            self._store,
            handlers=handlers,
            on_policy=self._handle_policy,
            on_policy_replaced=self._policy_replaced,
            receipts=ReceiptBook(self._send_receipt),
            retries=self.settings.handler_retries,
        )

    def _will(self, connection: int) -> Will:
        """Return the will of one connection: offline, with the incarnation of this run."""
        topic = self.topics.status(self.controller_id)
        return Will(topic, self._codec.wrap(self._heartbeat("offline", connection), topic), qos=0, retain=True)

    def _heartbeat(self, state: str, connection: int | None = None) -> Envelope:
        if connection is None:
            connection = self.mqtt.connection if self.mqtt is not None else 0
        payload: dict[str, Any] = {"state": state, "incarnation": self._incarnation, "connection": connection}
        if state == "online":
            payload |= self.status() | {"heartbeat_interval": self.settings.heartbeat_interval}
        return self._envelope("status", payload)

    def _wake(self) -> None:
        """Check the transports again; their threads call this. Only a change is worth a heartbeat."""
        with self._waking:
            available = [one.name for one in self.transports if one.available]
            changed, self._available = available != self._available, available
            connected = self.mqtt is not None and self.mqtt.available
            if connected and not self._was_connected:
                self._expect_delayed()
                if self._issuer is not None:
                    self._issuer.connected()
            self._was_connected = connected
        self._sender.wake()
        if changed:
            self._heartbeat_due.set()

    def _expect_delayed(self) -> None:
        try:
            since = self._store.moment("online")
        except StoreFailed as error:
            log.warning("messages that the broker kept meanwhile may be refused: %s", error)
            return
        if since is not None:
            self._gate.expect_delayed(since, CATCH_UP_SECONDS)

    def _run_heartbeats(self) -> None:
        """Send a heartbeat now, at each interval, and when a transport appears or disappears."""
        while True:
            self._heartbeat_due.clear()
            if self._stop.is_set():
                return
            self._say("online")
            self._save_online_time()
            self._reassert_policy()
            self._drop_old_subscriptions()
            self._heartbeat_due.wait(self.settings.heartbeat_interval)

    def _drop_old_subscriptions(self) -> None:
        """End the subscriptions of earlier runs, for example to another region, that this run has not made again."""
        try:
            if self.mqtt is not None and self._held.is_over:
                self.mqtt.unsubscribe_all_but(self._filters, self._store)
        except MqttkitError as error:
            log.warning("cannot end a subscription of an earlier run: %s", error)

    def _save_online_time(self) -> None:
        try:
            if self._was_connected:
                self._store.save_time("online", time.time())
        except StoreFailed as error:
            log.warning("cannot save the time at which this controller was online: %s", error)

    def _say(self, state: str) -> None:
        """Send one heartbeat at QoS 0, retained, by the first available transport; log errors, raise none."""
        transport = next((one for one in self.transports if one.available), None)
        if transport is None:
            return
        topic = self.topics.status(self.controller_id)
        try:
            transport.send(topic, self._codec.wrap(self._heartbeat(state), topic), qos=0, retain=True)
        except MqttkitError as error:
            log.warning("cannot send a heartbeat: %s", error)
        except Exception:
            log.exception("cannot send a heartbeat")
