"""The parts that every controller has: transports, sender, receiver, heartbeats."""

from __future__ import annotations

import logging
import os
import re
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, TypeVar

from mqttkit.addresses import parse_address
from mqttkit.controller.messages.envelope import Envelope, new_message_id
from mqttkit.controller.messages.topics import GLOBAL, SYSTEM, Kind, Place, Topics
from mqttkit.controller.policies import Policy
from mqttkit.controller.receiver import Receiver
from mqttkit.controller.security.gate import Codec, Gate, PlainCodec, SignedCodec, open_message
from mqttkit.controller.security.keys import KeyFile
from mqttkit.controller.sender import Sender
from mqttkit.controller.store import Store
from mqttkit.controller.transports.in_process import MemoryBus, MemoryTransport
from mqttkit.controller.transports.mqtt import MqttTransport
from mqttkit.controller.transports.types import Promise, Transport
from mqttkit.errors import ConfigError, MqttkitError, StoreFailed, UsageError
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
        self._waking = threading.Lock()
        self._heartbeat_due = threading.Event()
        self._stop = threading.Event()
        self._started = self._closed = False
        self._gate = Gate(self._codec, self._store, skew=settings.clock_skew)
        self._receiver = self._make_receiver()
        self.mqtt: MqttTransport | None = None
        self.transports = self._open_transports(mqtt, bus or _bus)
        self._sender = Sender(self.transports, self._codec.wrap)
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
                    transport.start(self._receiver.take, self._wake)
            except MqttkitError:
                self.disconnect_mqtt(flush=0)
                raise
            self._started = True
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
        """Wait up to `timeout` seconds until a transport has accepted every message; return whether it did."""
        return self._sender.flush(timeout)

    @property
    def unsent(self) -> int:
        """Number of messages that no transport has accepted yet."""
        return self._sender.waiting

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
            "dropped": self._sender.dropped,
            "counters": dict(self._receiver.counters),
            "policies": policies,
        }

    # --- for the roles ------------------------------------------------------------------------------------

    def _publish(
        self,
        message_type: str,
        topic: str,
        payload: Mapping[str, Any],
        *,
        region: str = "",
        retain: bool = False,
        needs_subscriber: bool = False,
    ) -> Promise:
        envelope = self._envelope(message_type, payload, region=region)
        return self._sender.put(envelope, topic, retain=retain, needs_subscriber=needs_subscriber)

    def _envelope(self, message_type: str, payload: Mapping[str, Any], *, region: str = "") -> Envelope:
        return Envelope(
            message_id=new_message_id(),
            message_type=message_type,
            sender_id=self.controller_id,
            region=region or self.settings.region,
            timestamp=time.time_ns() // 1_000_000,
            sequence=self._store.next_number("sequence"),
            payload=payload,
        )

    def _publish_policy(self, scope: str, rules: Mapping[str, Any], expires: int | None) -> tuple[Policy, Promise]:
        """Publish the next version of a scope's policy, retained."""
        version = self._store.next_number(f"policy {scope}")
        policy = Policy(scope, version, dict(rules), expires)
        topic = self.topics.policy(scope)
        return policy, self._publish("policy.update", topic, policy.to_payload(), region=scope, retain=True)

    def _subscribe(self, topic_filter: str) -> None:
        if topic_filter in self._filters:
            return
        for transport in self.transports:
            transport.subscribe(topic_filter)
        self._filters.append(topic_filter)

    def _handle_report(self, place: Place, envelope: Envelope) -> None:
        """Handle a discovery report; regional controllers override this."""

    def _handle_status(self, place: Place, envelope: Envelope) -> None:
        """Handle a heartbeat; a watcher overrides this."""

    def _handle_event(self, place: Place, envelope: Envelope) -> None:
        if self._event_handler is not None:
            self._event_handler(envelope)

    def _handle_policy(self, policy: Policy) -> None:
        if self._policy_handler is not None:
            self._policy_handler(policy)

    # --- internal -------------------------------------------------------------------------------------------

    def _make_receiver(self) -> Receiver:
        handlers = {
            Kind.DISCOVERY: self._handle_report,
            Kind.EVENT: self._handle_event,
            Kind.STATUS: self._handle_status,
        }
        return Receiver(
            self.topics,
            self._gate,
            self._store,
            handlers=handlers,
            on_policy=self._handle_policy,
            retries=self.settings.handler_retries,
        )

    def _open_transports(self, mqtt: MqttSettings, bus: MemoryBus) -> list[Transport]:
        """Open each transport that has an address, in the configured order."""
        found: list[Transport] = []
        for name in self.settings.transports:
            if name == "mqtt":
                keep = self.settings.keep_session
                self.mqtt = MqttTransport(mqtt, self.controller_id, will=self._will, keep_session=keep)
                found.append(self.mqtt)
            elif name == "http" and self.settings.http_listen is not None:
                from mqttkit.controller.transports.http_hub import HttpHub

                host, port = listen_address(self.settings.http_listen)
                found.append(HttpHub(host, port, max_bytes=self.settings.max_message_bytes, check=self._check))
            elif name == "http" and self.settings.http_url is not None:
                from mqttkit.controller.transports.http import HttpTransport

                found.append(HttpTransport(self.settings.http_url, poll_seconds=self.settings.poll_interval))
            elif name == "memory":
                found.append(MemoryTransport(bus))
        return found

    def _check(self, topic: str, data: bytes) -> None:
        """Raise MessageRefused for a message that the hub must not store for other controllers."""
        open_message(self._codec, self.topics.place(topic), data)

    def _will(self) -> Will:
        """Return the will: offline, with the incarnation of this run."""
        topic = self.topics.status(self.controller_id)
        return Will(topic, self._codec.wrap(self._heartbeat("offline"), topic), qos=0, retain=True)

    def _heartbeat(self, state: str) -> Envelope:
        payload: dict[str, Any] = {"state": state, "incarnation": self._incarnation}
        if state == "online":
            payload |= self.status() | {"heartbeat_interval": self.settings.heartbeat_interval}
        return self._envelope("status", payload)

    def _wake(self) -> None:
        """Check the transports again; their threads call this."""
        with self._waking:
            connected = self.mqtt is not None and self.mqtt.available
            if connected and not self._was_connected:
                self._expect_delayed()
            self._was_connected = connected
        self._sender.wake()
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
            self._heartbeat_due.wait(self.settings.heartbeat_interval)

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


def open_codec(settings: ControllerSettings, *, signs: bool = True) -> Codec:
    """Return the codec for these settings; raise UsageError if the key ring has no key for it.

    `signs` False needs keys that verify only, such as those of a watcher.
    """
    if settings.unsigned:
        return PlainCodec(max_bytes=settings.max_message_bytes)
    keys = KeyFile(key_file(settings))
    if signs:
        keys.ring.signer(settings.id)
    elif not keys.ring.keys:
        raise UsageError("the key ring is empty", hint="Add a key with: mqttkit controller key add FILE")
    return SignedCodec(keys, max_bytes=settings.max_message_bytes)


def key_file(settings: ControllerSettings) -> Path:
    """Return the path of the key ring."""
    return Path(settings.key_file) if settings.key_file else _state_directory() / "keys.json"


def state_file(settings: ControllerSettings) -> Path:
    """Return the path of the controller's store."""
    if settings.state_file:
        return Path(settings.state_file)
    return _state_directory() / (re.sub(r"[^A-Za-z0-9_.-]", "_", settings.id or "controller") + ".db")


def listen_address(text: str) -> tuple[str, int]:
    """Split `host:port`; port 0 picks a free port. Raise ConfigError."""
    host, colon, port = text.rpartition(":")
    if colon and port == "0" and host:
        return host.strip("[]"), 0
    try:
        return parse_address(text, 8088)
    except ValueError as error:
        raise ConfigError(str(error), where="controller.http_listen") from error


def _state_directory() -> Path:
    state = os.environ.get("XDG_STATE_HOME", "")
    base = Path(state) if state.startswith("/") else Path.home() / ".local" / "state"
    return base / "mqttkit" / "controllers"
