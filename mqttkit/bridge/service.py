"""The bridge: a connection, a pipeline, a sink, and the loop that supervises them."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence

from mqttkit.bridge.canary import Canary
from mqttkit.bridge.flow.accounting import Books
from mqttkit.bridge.flow.intake import PipelineLimits
from mqttkit.bridge.flow.pipeline import Pipeline
from mqttkit.bridge.identity import Identity
from mqttkit.bridge.metric import MetricParser, check_metric_template, reserved_prefix, template_filter
from mqttkit.bridge.observe.health import Health, HealthServer, Sample
from mqttkit.bridge.observe.prometheus import samples_of
from mqttkit.bridge.observe.resource_watch import ClockWatch, MemoryWatch, check_certificates, resident_bytes
from mqttkit.bridge.observe.service_manager import Notifier
from mqttkit.bridge.session import SessionWatch, end_session, session_purpose
from mqttkit.bridge.sinks import open_sink, sink_options
from mqttkit.bridge.sinks.types import Sink
from mqttkit.bridge.subscription import SubscriptionKeeper
from mqttkit.bridge.tenants import open_registry
from mqttkit.bridge.tenants.types import TenantRegistry
from mqttkit.client import ConnectionState, MqttClient
from mqttkit.client.control import connection_number, drop_connection, loop_ran_at
from mqttkit.errors import MqttkitError, SinkUnavailable, UsageError
from mqttkit.messages import Message, Will
from mqttkit.settings import BridgeSettings, MqttSettings, Settings
from mqttkit.stop import Stop

logger = logging.getLogger(__name__)

EX_TEMPFAIL = 75
"""Exit code that asks for a restart (sysexits.h)."""
SESSION_SECONDS = 7 * 86_400
"""How long the broker keeps the session, by default."""
TICK = 0.25
"""Seconds between checks of health and connection."""
SLOW_TICK = 5.0
"""Seconds between checks of memory and clocks."""
LIVE_SECONDS = 30.0
"""A loop that has not run for so long is stuck."""
RECONNECT_SECONDS = 2.0
"""Longest wait between attempts to connect: devices reconnect soon, and their messages need the bridge."""
ANSWER_SECONDS = 3.0
"""How long to wait for an UNSUBACK."""
LEAVE_QUIET_SECONDS = 1.0
"""A bridge that leaves waits until the broker has sent nothing for so long."""
QUIESCE_SECONDS = 1.5
QUIET_SECONDS = 0.1
"""Before it disconnects, the bridge waits until no message has arrived for 0.1 s, at most 1.5 s."""
FULL = 0.9
"""If the queue is filled to this share, the bridge is not ready."""


def bridge_filter(settings: BridgeSettings) -> str:
    """Return the topic filter to subscribe to: a shared subscription if a group is set."""
    inner = template_filter(check_metric_template(settings.topic))
    return f"$share/{settings.group}/{inner}" if settings.group else inner


class Bridge:
    """Run until stopped. Call `run` in the main thread; call `stop` anywhere, also in a signal handler."""

    def __init__(
        self,
        settings: Settings,
        *,
        retry: bool = True,
        will: Will | None = None,
        notifier: Notifier | None = None,
        books: Books | None = None,
        leave: bool = False,
    ) -> None:
        """Check the settings; open nothing yet. If `retry` is False, the first failure to connect ends the bridge.

        If `leave` is True, commit what the broker has queued for this bridge, end the session, and stop.
        """
        bridge = settings.bridge
        if not bridge.sink:
            raise UsageError("no sink given", hint="Example: --sink sqlite:metrics.db")
        if not bridge.tenants:
            raise UsageError("no tenants given", hint="Example: --tenants tenants.yaml")
        self.settings = bridge
        self.filter = bridge_filter(bridge)
        self._reserved = reserved_prefix(bridge.topic)
        self.canary = Canary(self._reserved)
        self.ready = False
        self._mqtt = settings.mqtt
        self._retry = retry
        self._will = will
        self._notifier = notifier or Notifier()
        self._books = books
        self._sink: Sink = open_sink(bridge.sink, sink_options(bridge))
        self._stop = Stop()
        self._never = threading.Event()
        self._failure: BaseException | None = None
        self._memory = MemoryWatch(bridge.memory)
        self._clock = ClockWatch(bridge.skew_limit)
        self._restart = False
        self._worker_at = time.monotonic()
        self._worker_progress = -1
        self._leave_now = leave
        self._leaving = leave or bridge.leave_on_stop
        self._left = False
        self._client_id = ""
        self._identity: Identity | None = None
        self.session: SessionWatch
        self.pipeline: Pipeline
        self.client: MqttClient

    def stop(self) -> None:
        """Ask the bridge to drain and stop. Only sets a flag."""
        self._stop.set()

    # -- running -----------------------------------------------------------------------------------

    def run(self) -> int:
        """Run; return the exit code: 0 drained, 1 the broker still has messages, 75 restart the bridge.

        Raise SinkBroken, and ConnectionRefused if another client has our identifier. If `retry` is off, also raise
        SubscriptionDenied and BrokerUnreachable.
        """
        with contextlib.ExitStack() as stack:
            registry = open_registry(self.settings.tenants or "")
            stack.callback(registry.close)
            self._open_sink()
            session = stack.enter_context(self._session())
            self._build(session, registry)
            self._serve_health(stack)
            worker = self._spawn(self.pipeline.run, "bridge-worker")
            try:
                self._connect()
                self._spawn(self._keep_subscribed, "bridge-subscription")
                self._supervise()
            finally:
                drained = self._drain(worker)
                self.client.close(flush=0.0)
                if not worker.is_alive():
                    self._sink.close()
                if self._left and drained:
                    self._end_session(session)
        if self._failure is not None:
            raise self._failure
        return EX_TEMPFAIL if self._restart else 0 if drained else 1

    def _build(self, settings: MqttSettings, registry: TenantRegistry) -> None:
        self.client = MqttClient(
            settings,
            will=self._will,
            on_messages=self._receive,
            on_state=self._note_state,
            manual_ack=True,
            retry=self._retry,
        )
        self._keeper = SubscriptionKeeper(
            self.client,
            self.filter,
            canary=self.canary,
            check_interval=self.settings.check_interval,
            retry=self._retry,
        )
        self.pipeline = self._make_pipeline(registry, settings.client.receive_maximum)

    def _serve_health(self, stack: contextlib.ExitStack) -> None:
        host, port = self.settings.health_host, self.settings.health_port
        if port is not None:
            server = HealthServer(host, port, health=self.health, samples=self.samples)
            stack.enter_context(server)
            logger.info("health on http://%s:%d", host, server.port)

    def _spawn(self, work: Callable[[], None], name: str) -> threading.Thread:
        """Run `work` in a thread. An exception in it stops the bridge, and `run` raises it."""

        def guarded() -> None:
            try:
                work()
            except BaseException as error:  # noqa: BLE001 - the main thread raises it
                self._failure = self._failure or error
                self._stop.set()

        thread = threading.Thread(target=guarded, name=name, daemon=True)
        thread.start()
        return thread

    def _open_sink(self) -> None:
        try:
            self._sink.open()
        except SinkUnavailable as error:
            logger.error("%s; trying again", error)  # noqa: TRY400 - expected, a traceback adds nothing

    @contextlib.contextmanager
    def _session(self) -> Iterator[MqttSettings]:
        """Yield settings with a persistent session and a stable client identifier."""
        mqtt, bridge = self._mqtt, self.settings
        with contextlib.ExitStack() as stack:
            client_id = mqtt.client.client_id
            if client_id is None:
                target = (bridge.list or bridge.stream) if "redis" in self._sink.name else ""
                purpose = session_purpose(mqtt.broker, self.filter, self._sink.name, target)
                earlier = (repr(mqtt.broker.addresses()), self.filter, self._sink.name)
                self._identity = stack.enter_context(Identity(*purpose, earlier=earlier))
                client_id = self._identity.client_id
            self._client_id = client_id
            self.session = self._watch_session(client_id)
            client = dataclasses.replace(
                mqtt.client,
                client_id=client_id,
                clean_session=False,
                session_expiry=mqtt.client.session_expiry or SESSION_SECONDS,
            )
            delay = min(mqtt.reconnect.max_delay, RECONNECT_SECONDS)
            reconnect = dataclasses.replace(mqtt.reconnect, max_delay=delay)
            yield dataclasses.replace(mqtt, client=client, reconnect=reconnect)

    def _watch_session(self, client_id: str) -> SessionWatch:
        identity = self._identity
        if identity is None:
            return SessionWatch(client_id, expected=False, remember=lambda: None)
        return SessionWatch(client_id, expected=identity.had_session, remember=identity.remember_session)

    def _make_pipeline(self, registry: TenantRegistry, receive_maximum: int) -> Pipeline:
        bridge = self.settings
        limits = PipelineLimits(
            batch_size=max(1, min(bridge.batch_size, receive_maximum // 2)),
            batch_window=bridge.batch_window,
            queue_messages=max(bridge.queue_size, 2 * receive_maximum),
        )
        parser = MetricParser(bridge.topic, payload_limit=bridge.payload_limit)
        return Pipeline(
            parser=parser,
            registry=registry,
            sink=self._sink,
            acknowledge=self._acknowledge,
            limits=limits,
            pause=self.client.pause_reading,
            books=self._books,
        )

    def _connect(self) -> None:
        if self._retry:
            self.client.start()
        else:
            self.client.connect()

    def _keep_subscribed(self) -> None:
        """Maintain the subscription, in a separate thread because it waits for the broker's answers."""
        if self._leave_now:
            self._wait_connected()
            return
        while not self._stop.wait(TICK):
            self._keeper.tick(idle=not self.pipeline.blocked and not self.pipeline.books.balance().in_flight)

    def _wait_connected(self) -> None:
        while not self._stop.wait(TICK):
            if self.client.connected:
                self._stop.set()

    def _supervise(self) -> None:
        slow_at = stats_at = time.monotonic()
        if self._mqtt.broker.tls is not None:
            check_certificates(self._mqtt.broker.tls)
        while not self._stop.wait(TICK):
            self._look()
            now = time.monotonic()
            if now - slow_at >= SLOW_TICK:
                slow_at = now
                self._clock.check(self.pipeline.skew_ms)
                if self._memory.too_much():
                    logger.error("resident memory reached memory.max: draining, then exiting with %d", EX_TEMPFAIL)
                    self._restart = True
                    return
            if now - stats_at >= self.settings.stats_interval:
                stats_at = now
                self._log_books()

    def _look(self) -> None:
        """Report to the service manager; raise the client's failure if it stopped retrying."""
        if self.client.given_up and self.client.failure is not None:
            raise self.client.failure
        health = self.health()
        self.ready = not health.not_ready
        if self.ready:
            self._notifier.ready(str(self.pipeline.books.balance()))
        if not health.not_live:
            self._notifier.beat((self.pipeline.progress, loop_ran_at(self.client)))

    def _log_books(self) -> None:
        books = self.pipeline.books
        logger.info(
            "%s acknowledged=%d stale=%d returned=%d retries=%d",
            books.balance(),
            books.acknowledged,
            books.stale,
            books.returned,
            books.retries,
        )
        self._notifier.status(str(books.balance()))

    def _leave(self) -> None:
        """Unsubscribe, and commit the messages that the broker has queued for this bridge.

        Without the subscription the broker deals no more messages of a group to this bridge.
        """
        try:
            self.client.unsubscribe(self.filter, timeout=ANSWER_SECONDS)
        except MqttkitError as error:
            logger.warning("cannot leave: %s; the session %s stays", error, self._client_id)
            return
        self._left = True
        quiet_since, received = time.monotonic(), -1
        while time.monotonic() - quiet_since < LEAVE_QUIET_SECONDS and self.client.connected:
            balance = self.pipeline.books.balance()
            if balance.in_flight or balance.received != received:
                quiet_since, received = time.monotonic(), balance.received
            if self._failure is not None or self._never.wait(QUIET_SECONDS):
                return

    def _end_session(self, settings: MqttSettings) -> None:
        """Remove the session from the broker, which has no more messages in it."""
        try:
            end_session(settings)
        except MqttkitError as error:
            logger.warning("cannot remove the session %s from the broker: %s", self._client_id, error)
            return
        if self._identity is not None:
            self._identity.forget_session()
        logger.info("left: the broker has no session %s any more", self._client_id)

    def _drain(self, worker: threading.Thread) -> bool:
        """Commit and acknowledge all queued messages; return False if some are left."""
        self._notifier.stopping()
        if self._leaving and self.client.connected and not self.pipeline.blocked:
            self._leave()
        self.pipeline.intake.drain()
        worker.join(self.settings.drain_timeout)
        if worker.is_alive():
            self.pipeline.intake.stop()
            worker.join(self.settings.sink_timeout / 2)
        self._quiesce()
        self._log_books()
        left = self.pipeline.books.balance().in_flight
        if left:
            logger.error("%d messages were not committed; the broker keeps them for the next run", left)
        return not left

    def _quiesce(self) -> None:
        """Read until the broker sends no more messages.

        If a socket is closed with unread bytes, the kernel resets it, and acknowledgements in transit are lost.
        """
        deadline = time.monotonic() + QUIESCE_SECONDS
        before = -1
        while self.client.connected and time.monotonic() < deadline:
            if self.pipeline.books.turned_away == before:
                return
            before = self.pipeline.books.turned_away
            self._never.wait(QUIET_SECONDS)

    # -- the connection ----------------------------------------------------------------------------

    def _receive(self, messages: list[Message]) -> None:
        """Queue messages; called in the network thread."""
        if any(message.topic.startswith(self._reserved) for message in messages):
            messages = self._take_reserved(messages)
        if not self.pipeline.intake.offer(messages):
            reliable = sum(message.qos > 0 for message in messages)
            if reliable:
                logger.error("the broker sent more messages than Receive Maximum allows: ending the connection")
                drop_connection(self.client)

    def _take_reserved(self, messages: list[Message]) -> list[Message]:
        """Acknowledge mqttkit's own messages and return the others."""
        rest = []
        for message in messages:
            if message.topic.startswith(self._reserved):
                self.canary.receive(message)
                if message.qos:
                    self.client.ack(message)
            else:
                rest.append(message)
        return rest

    def _note_state(self, state: ConnectionState, _reason: str) -> None:
        """Handle a change of the connection; called in the network thread, before any message of a new connection."""
        if state is ConnectionState.CONNECTED:
            client = self.client
            self.pipeline.intake.reconnected(connection_number(client), session_present=client.session_present)
            self.session.connected(present=client.session_present)
        else:
            self.pipeline.intake.disconnected()
            self.session.disconnected()

    def _acknowledge(self, messages: Sequence[Message]) -> int:
        ack = self.client.ack
        return sum(ack(message) for message in messages if message.qos)

    # -- health and metrics ------------------------------------------------------------------------

    def health(self) -> Health:
        """Return what is wrong. Call it from any thread."""
        return Health(self._not_live(), self._not_ready())

    def samples(self) -> list[Sample]:
        """Return the samples for Prometheus. Call it from any thread."""
        ready = not self._not_ready()
        return samples_of(self.pipeline, self.client, self.session, ready=ready, resident=resident_bytes())

    def _not_live(self) -> list[str]:
        now = time.monotonic()
        progress = self.pipeline.progress
        if progress != self._worker_progress:
            self._worker_progress, self._worker_at = progress, now
        wrong = []
        if now - self._worker_at > LIVE_SECONDS:
            wrong.append(f"the worker made no progress for {now - self._worker_at:.0f} s")
        looped = loop_ran_at(self.client)
        if looped and now - looped > LIVE_SECONDS:
            wrong.append(f"the network loop made no progress for {now - looped:.0f} s")
        if isinstance(self._failure, MqttkitError):
            wrong.append(str(self._failure))
        return wrong

    def _not_ready(self) -> list[str]:
        wrong = self._not_live()
        client = self.client
        if not client.connected:
            wrong.append(f"not connected: {client.reason or client.state.value}")
        else:
            wrong += self._keeper.wrong()
        if self.pipeline.blocked:
            wrong.append(self.pipeline.blocked)
        if self.pipeline.intake.fill >= FULL:
            wrong.append(f"the queue is {self.pipeline.intake.fill:.0%} full")
        if self._stop.is_set:
            wrong.append("stopping")
        return wrong
