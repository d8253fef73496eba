"""What runs in every controller: transports, sender, receiver, heartbeats, and how messages leave and arrive."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from typing import Any, ClassVar

from mqttkit.controller.configuration import listen_address, open_codec, required_id, state_file
from mqttkit.controller.handover.outbox import ReportOutbox
from mqttkit.controller.handover.pending import PendingMessage
from mqttkit.controller.handover.receipts import ReceiptBook, ReportReceipt, ReturnAddress
from mqttkit.controller.handover.sender import Sender
from mqttkit.controller.heartbeats import Heartbeats, OnlineTime
from mqttkit.controller.held_messages import HeldMessages
from mqttkit.controller.messages.envelope import Envelope, new_message_id
from mqttkit.controller.messages.topics import Kind, Place, Topics
from mqttkit.controller.policies import Policy
from mqttkit.controller.receiver import Receiver
from mqttkit.controller.requests.peers import PeerRuns
from mqttkit.controller.requests.requester import RequestSender
from mqttkit.controller.requests.responder import RequestDesk
from mqttkit.controller.requests.types import AnswerPayload, RequestPayload
from mqttkit.controller.security.gate import Codec, Gate
from mqttkit.controller.standby import Standby
from mqttkit.controller.store import Store
from mqttkit.controller.transports.in_process import MemoryBus
from mqttkit.controller.transports.mqtt import MqttTransport
from mqttkit.controller.transports.opening import open_transports
from mqttkit.controller.transports.types import Promise, Transport
from mqttkit.errors import MqttkitError, StoreFailed, SubscriptionDenied
from mqttkit.messages import Will
from mqttkit.settings import ControllerSettings, MqttSettings

log = logging.getLogger(__name__)

_bus = MemoryBus()
"""The bus that all controllers of this process share by default."""


class ControllerCore:
    """The parts of a controller and their life; `Controller` adds what applications use."""

    role: ClassVar[str] = "controller"
    shows_itself: ClassVar[bool] = True
    """Whether it sends heartbeats and has a will."""

    def __init__(
        self,
        settings: ControllerSettings,
        mqtt: MqttSettings,
        *,
        codec: Codec | None = None,
        store: Store | None = None,
        bus: MemoryBus | None = None,
    ) -> None:
        self.settings = settings
        self.controller_id = required_id(settings)
        self.topics = Topics(settings.base)
        self._mqtt_settings = mqtt
        self._codec = codec or open_codec(settings)
        if settings.http_listen is not None:
            listen_address(settings.http_listen)
        self._store = store or Store(state_file(settings))
        self._incarnation = new_message_id()
        self._filters: list[str] = []
        self._available: list[str] = []
        self._waking = threading.Lock()
        self._was_connected = self._started = self._closed = False
        self._will_signer = ""  # the key that signed the will of the present connection
        self.mqtt: MqttTransport | None = None
        self._standby: Standby | None = None
        self._gate = Gate(self._codec, self._store, skew=settings.clock_skew)
        self._online_time = OnlineTime(self._store, self._gate)
        self._peers = PeerRuns()
        self._requests = RequestSender(self._send_request, self._peers)
        self._desk = RequestDesk(self._send_answer, self._current_run, settings.region)
        self._receiver = self._make_receiver()
        self._held = HeldMessages(self._receiver.take)
        will = self._will if self.shows_itself else None
        self.transports = open_transports(settings, mqtt, self.topics, self._codec, will=will, bus=bus or _bus)
        self.mqtt = next((one for one in self.transports if isinstance(one, MqttTransport)), None)
        self._sender = Sender(
            self.transports, self._codec, skew=settings.clock_skew,
            outbox=self._open_outbox(), on_denied=self._store.save_dead_letter, brings_receipts=self._brings_receipts,
        )  # fmt: skip
        self._heartbeats = Heartbeats(settings.heartbeat_interval, self._beat, self._signer)

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
            if self.shows_itself:
                self._heartbeats.start()
        return self.mqtt is not None and self.mqtt.client.wait_connected(timeout)

    def disconnect_mqtt(self, *, flush: float = 5.0) -> None:
        """Send waiting messages for up to `flush` seconds, report offline, end transports and threads. Idempotent."""
        if self._closed:
            return
        self._closed = True
        if self._standby is not None:
            self._standby.close()
        self._desk.close()
        self._sender.close(flush=flush)
        self._heartbeats.close()
        if self._started and self.shows_itself:
            self._say("offline")
        self._held.close()
        self._receiver.close()  # before the transports, so that handled messages are still acknowledged
        for transport in self.transports:
            transport.close()
        try:
            self._store.close()
        except StoreFailed as error:
            log.warning("%s; messages that were not acknowledged will be delivered again", error)

    def _wake(self) -> None:
        """Check the transports again; their threads call this. Only a change is worth a heartbeat."""
        with self._waking:
            available = [one.name for one in self.transports if one.available]
            changed, self._available = available != self._available, available
            connected = self.mqtt is not None and self.mqtt.available
            if connected and not self._was_connected:
                self._online_time.expect_delayed()
                self._has_connected()
            self._was_connected = connected
        self._sender.wake()
        if changed:
            self._heartbeats.due.set()

    # --- for the roles to override ---------------------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        """Return the content of the heartbeat."""
        return {}

    def _open_outbox(self) -> ReportOutbox | None:
        """Return the outbox in which unsent messages survive a restart; local controllers have one."""
        return None

    def _brings_receipts(self, transport: Transport) -> bool:
        """Return whether this controller can already receive receipts over a transport."""
        return True

    def _has_connected(self) -> None:
        """The transport to the broker has connected."""

    def _after_heartbeat(self) -> None:
        """Do what is due as often as a heartbeat."""

    def _handle_report(self, place: Place, envelope: Envelope) -> None:
        """Handle a discovery report; regional controllers override this."""

    def _handle_receipt(self, place: Place, envelope: Envelope) -> None:
        """Handle a receipt for reports; local controllers override this."""

    def _handle_event(self, place: Place, envelope: Envelope) -> None:
        """Handle an event."""

    def _handle_own(self, place: Place, envelope: Envelope) -> None:
        """Handle a message whose type an application defines."""

    def _handle_policy(self, policy: Policy) -> None:
        """Handle a policy that is new."""

    def _policy_replaced(self, place: Place, envelope: Envelope | None, *, newer: bool) -> None:
        """Another policy message than the one in force arrived."""

    # --- messages --------------------------------------------------------------------------------------------------

    def _publish(
        self,
        message_type: str,
        topic: str,
        payload: Mapping[str, Any],
        *,
        region: str = "",
        retain: bool = False,
        qos: int = 1,
        needs_receipt: bool = False,
    ) -> Promise:
        envelope = self._envelope(message_type, payload, region)
        return self._sender.put(PendingMessage(envelope, topic, retain, qos=qos, needs_receipt=needs_receipt))

    def _envelope(self, message_type: str, payload: Mapping[str, Any], region: str = "") -> Envelope:
        return Envelope(
            message_id=new_message_id(),
            message_type=message_type,
            sender_id=self.controller_id,
            region=region or self.settings.region,
            timestamp=int(self._codec.time() * 1_000),
            sequence=self._store.next_number("sequence"),
            payload=payload,
        )

    def _subscribe(self, topic_filter: str, qos: int = 1) -> None:
        if topic_filter in self._filters:
            return
        for transport in self.transports:
            transport.subscribe(topic_filter, qos)
        self._filters.append(topic_filter)
        self._held.subscribed(topic_filter)
        if self.settings.keep_session:
            self._store.save_subscription(topic_filter)

    def _subscribe_own(self) -> None:
        """Subscribe to what concerns this controller itself."""
        if not self.shows_itself:
            return
        try:
            self._subscribe(self.topics.requests(self.controller_id))
        except SubscriptionDenied as error:
            log.warning("%s; this controller gets no requests", error)

    def _make_receiver(self) -> Receiver:
        handlers = {
            Kind.DISCOVERY: self._handle_report,
            Kind.EVENT: self._handle_event,
            Kind.STATUS: self._handle_status,
            Kind.RECEIPT: self._handle_receipt,
            Kind.ANSWER: lambda _place, envelope: self._requests.receive(envelope),
            Kind.OWN: self._handle_own,
        }
        receiver = Receiver(
            self.topics,
            self._gate,
            self._store,
            handlers=handlers,
            on_policy=self._handle_policy,
            on_policy_replaced=self._policy_replaced,
            receipts=ReceiptBook(self._send_receipt),
            retries=self.settings.handler_retries,
        )
        receiver.desk = self._desk
        return receiver

    def _send_receipt(self, address: ReturnAddress, receipt: ReportReceipt) -> None:
        """Send a receipt the way that the reports came. A lost one is not repeated: the sender repeats the report."""
        topic = self.topics.receipts(address.region, address.controller_id)
        try:
            data = self._codec.wrap(self._envelope("receipt", receipt.to_payload(), address.region), topic)
            next(one for one in self.transports if one.name == address.transport).send(topic, data, qos=1, retain=False)
        except MqttkitError as error:
            log.warning("cannot send a receipt to %s: %s", address.controller_id, error)

    def _send_request(self, address: str, request: RequestPayload, deadline: float) -> tuple[str, Promise]:
        envelope = self._envelope("request", request.to_payload())
        item = self._addressed(envelope, self.topics.requests(address), deadline)
        return envelope.message_id, self._sender.put(item)

    def _send_answer(self, address: str, answer: AnswerPayload, deadline: float) -> None:
        envelope = self._envelope("answer", answer.to_payload())
        self._sender.put(self._addressed(envelope, self.topics.answers(address), deadline))

    @staticmethod
    def _addressed(envelope: Envelope, topic: str, deadline: float) -> PendingMessage:
        """Return a message that goes to one controller, which may be about to subscribe."""
        return PendingMessage(envelope, topic, retain=False, expires=deadline, needs_subscriber=True)

    def _current_run(self) -> tuple[str, int]:
        """Return what distinguishes this run and this connection from others."""
        return self._incarnation, self.mqtt.connection if self.mqtt is not None else 0

    # --- heartbeats ------------------------------------------------------------------------------------------------

    def _will(self, connection: int) -> Will:
        """Return the will of one connection: offline, with the incarnation of this run."""
        topic = self.topics.status(self.controller_id)
        self._will_signer = self._signer()
        return Will(topic, self._codec.wrap(self._heartbeat("offline", connection), topic), qos=0, retain=True)

    def _heartbeat(self, state: str, connection: int | None = None) -> Envelope:
        incarnation, current = self._current_run()
        number = current if connection is None else connection
        payload: dict[str, Any] = {"state": state, "incarnation": incarnation, "connection": number}
        if state == "online":
            payload |= self.status() | {"heartbeat_interval": self.settings.heartbeat_interval}
        return self._envelope("status", payload)

    def _signer(self) -> str:
        """Return the identifier of the key that signs now; empty if there is none."""
        try:
            return self._codec.signer_id(self.controller_id)
        except MqttkitError:
            return ""

    def _beat(self) -> None:
        """Send a heartbeat, and do what is due with it. Runs in the heartbeat's thread."""
        self._watch_own_status()
        self._say("online")
        if self._was_connected:
            self._online_time.save()
        self._renew_will()
        self._after_heartbeat()
        self._drop_old_subscriptions()

    def _say(self, state: str) -> None:
        """Send one heartbeat, retained, by the first available transport; log errors, raise none.

        The last one has QoS 1: closing the transport then waits until the broker has it.
        """
        transport = next((one for one in self.transports if one.available), None)
        if transport is None:
            return
        topic = self.topics.status(self.controller_id)
        qos = 1 if state == "offline" else 0
        try:
            transport.send(topic, self._codec.wrap(self._heartbeat(state), topic), qos=qos, retain=True)
        except MqttkitError as error:
            log.warning("cannot send a heartbeat: %s", error)
        except Exception:
            log.exception("cannot send a heartbeat")

    def _renew_will(self) -> None:
        """Connect again if another key signs now than the one that signed the will."""
        signer = self._signer()
        if self.mqtt is None or not self.mqtt.available or signer in ("", self._will_signer):
            return
        log.info("key %s signs now; connecting again with a will that it signs", signer)
        self.mqtt.renew_will()

    def _drop_old_subscriptions(self) -> None:
        """End the subscriptions of earlier runs, for example to another region, that this run has not made again."""
        try:
            if self.mqtt is not None and self._held.is_over:
                self.mqtt.unsubscribe_all_but(self._filters, self._store)
        except MqttkitError as error:
            log.warning("cannot end a subscription of an earlier run: %s", error)

    # --- another instance with this identity -----------------------------------------------------------------------

    def _watch_own_status(self) -> None:
        """From the second connection on, look whether another instance has ended the first."""
        if self.mqtt is None or self.mqtt.connection < 2 or not self.mqtt.available:
            return
        try:
            self._subscribe(self.topics.status(self.controller_id))
        except SubscriptionDenied as error:
            log.warning("%s; this controller cannot notice another instance of itself", error)

    def _handle_status(self, _place: Place, envelope: Envelope) -> None:
        self._peers.note(envelope)
        if envelope.sender_id != self.controller_id or not self.shows_itself or self.mqtt is None:
            return
        incarnation = envelope.payload.get("incarnation")
        newer = isinstance(incarnation, str) and incarnation > self._incarnation
        waiting = self._standby is not None and self._standby.is_waiting
        if newer and not waiting and not self._closed:  # offline, too: that is its will when this one has ended it
            self._stand_down(self.mqtt)

    def _stand_down(self, mqtt: MqttTransport) -> None:
        """Leave the broker to the newer instance until it has left."""
        mqtt.stand_down()

        def resume() -> None:
            self._incarnation = new_message_id()
            mqtt.resume()

        self._standby = Standby(self.controller_id, self.topics, self._codec, self._mqtt_settings, resume)
        self._standby.start()
