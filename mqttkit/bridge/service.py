"""The bridge: a connection, a pipeline, a sink, and the loop that supervises them."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mqttkit.bridge.canary import Canary
from mqttkit.bridge.flow.accounting import Books
from mqttkit.bridge.flow.intake import PipelineLimits
from mqttkit.bridge.flow.mapping import open_parser
from mqttkit.bridge.flow.pipeline import Pipeline
from mqttkit.bridge.flow.route import Route
from mqttkit.bridge.group import GroupWatch
from mqttkit.bridge.metric import reserved_prefix
from mqttkit.bridge.observe.health import Health, Sample, serve_health
from mqttkit.bridge.observe.prometheus import samples_of
from mqttkit.bridge.observe.resource_watch import CertificateWatch, ClockWatch, MemoryWatch, resident_bytes
from mqttkit.bridge.observe.service_manager import Notifier
from mqttkit.bridge.session import BridgeSession, TakeoverWatch
from mqttkit.bridge.sinks import open_sink, sink_options
from mqttkit.bridge.sinks.types import Sink
from mqttkit.bridge.stopping import Shutdown
from mqttkit.bridge.subscription import SubscriptionKeeper, bridge_filters
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
TICK = 0.25
"""Seconds between checks of health and connection."""
SLOW_TICK = 5.0
"""Seconds between checks of memory and clocks."""
LIVE_SECONDS = 30.0
"""A loop that has not run for so long is stuck."""
JOIN_SECONDS = 10.0
"""How long to wait for an answer that the subscription's thread still expects when the bridge stops."""
FULL = 0.9
"""If the queue is filled to this share, the bridge is not ready."""


def required_sink(settings: BridgeSettings) -> str:
    """Return the sink's address; raise `UsageError` unless a sink and tenants are given."""
    if not settings.sink:
        raise UsageError("no sink given", hint="Example: --sink sqlite:metrics.db")
    if not settings.tenants:
        raise UsageError("no tenants given", hint="Example: --tenants tenants.yaml")
    return settings.sink


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How to run a bridge, or several as outputs."""

    retry: bool = True
    """If False, the first failure to connect ends it."""
    will: Will | None = None
    leave: bool = False
    """Commit what the broker has queued for the bridge, end the session, and stop."""


class Bridge:
    """Run until stopped. Call `run` in the main thread; call `stop` anywhere, also in a signal handler."""

    def __init__(
        self,
        settings: Settings,
        options: RunOptions = RunOptions(),
        *,
        notifier: Notifier | None = None,
        books: Books | None = None,
        route: Route | None = None,
    ) -> None:
        """Check the settings; open nothing yet. With a `route`, the bridge is one of several outputs."""
        self.settings = bridge = settings.bridge
        sink = required_sink(bridge)
        self.filters = bridge_filters(bridge)
        self._reserved = reserved_prefix(bridge.topic)
        self.canary = Canary(self._reserved)
        self.ready = False
        self._mqtt = settings.mqtt
        self._options, self._route = options, route
        self._notifier = notifier or Notifier()
        self._books = books
        self._sink: Sink = open_sink(sink, sink_options(bridge))
        self.place = (self._sink.name, self._sink.target)
        self._stop = Stop()
        self._failure: BaseException | None = None
        self._memory, self._clock = MemoryWatch(bridge.memory), ClockWatch(bridge.skew_limit)
        self._restart = False
        self._worker_at = time.monotonic()
        self._worker_progress = -1
        self.session: BridgeSession
        self._takeovers = TakeoverWatch()
        self._refused_on = 0  # number of the last connection whose messages had no room
        self.group: GroupWatch | None = None
        self.pipeline: Pipeline
        self.client: MqttClient

    def stop(self) -> None:
        """Ask the bridge to drain and stop. Only sets a flag."""
        self._stop.set()

    @property
    def is_built(self) -> bool:
        """True once `health` and `samples` can be called."""
        return hasattr(self, "pipeline")

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
            self.session = stack.enter_context(self._open_session())
            self._build(registry, stack)
            serve_health(stack, self.settings, health=self.health, samples=self.samples)
            worker = self._spawn(self.pipeline.run, "bridge-worker")
            drained = False
            try:
                self._connect()
                keeper = self._spawn(self._keep_subscribed, "bridge-subscription")
                self._supervise()
                self._stop.set()
                keeper.join(JOIN_SECONDS)
            finally:
                drained = self._finish(worker)
        if self._failure is not None:
            raise self._failure
        return EX_TEMPFAIL if self._restart else 0 if drained else 1

    def _build(self, registry: TenantRegistry, stack: contextlib.ExitStack) -> None:
        settings = self.session.settings
        self.client = MqttClient(
            settings,
            will=self._options.will,
            on_messages=self._receive,
            on_state=self._note_state,
            manual_ack=True,
            retry=self._options.retry,
        )
        if self.settings.group is not None:
            self.group = stack.enter_context(self._watch_group(settings, self.settings.group))
        self._keeper = SubscriptionKeeper(
            self.client,
            self.filters,
            canary=self.canary,
            check_interval=self.settings.check_interval,
            retry=self._options.retry,
            prove_sharing=self.group.prove_sharing if self.group is not None else None,
        )
        self.pipeline = self._make_pipeline(registry, settings.client.receive_maximum)

    def _watch_group(self, settings: MqttSettings, group: str) -> GroupWatch:
        return GroupWatch(
            settings,
            group=group,
            prefix=self._reserved,
            client_id=self.session.client_id,
            runs=lambda: self.client.connected and self._keeper.subscribed,
        )

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

    def _open_session(self) -> BridgeSession:
        sink, output = self._sink, self._route.name if self._route is not None else ""
        return BridgeSession(
            self._mqtt, topic_filter=" ".join(self.filters), sink=sink.name, target=sink.target, output=output
        )

    def _make_pipeline(self, registry: TenantRegistry, receive_maximum: int) -> Pipeline:
        bridge = self.settings
        limits = PipelineLimits(
            batch_size=max(1, min(bridge.batch_size, receive_maximum // 2)),
            batch_window=bridge.batch_window,
            queue_messages=max(bridge.queue_size, 2 * receive_maximum),
            letter_quota=bridge.dead_letter_quota,
            retained_return=bridge.group is None,
            drop_letters=bridge.dead_letter_overflow == "drop",
        )
        pipeline = Pipeline(
            parser=open_parser(bridge, self.session.state_path, self.client.publish),
            registry=registry,
            sink=self._sink,
            acknowledge=self._acknowledge,
            limits=limits,
            pause=self.client.pause_reading,
            books=self._books,
        )
        pipeline.route = self._route
        return pipeline

    def _connect(self) -> None:
        if self._options.retry:
            self.client.start()
        else:
            self.client.connect()

    def _keep_subscribed(self) -> None:
        """Maintain the subscription, in a separate thread because it waits for the broker's answers."""
        if self._options.leave:
            self._wait_connected()
            return
        while not self._stop.wait(TICK):
            self._keeper.tick(idle=not self.pipeline.blocked and not self.pipeline.books.balance().in_flight)
            if self.group is not None:
                self.group.tick()

    def _wait_connected(self) -> None:
        while not self._stop.wait(TICK):
            if self.client.connected:
                self.session.check_leaving(present=self.client.session_present)
                self._stop.set()

    def _supervise(self) -> None:
        slow_at = stats_at = time.monotonic()
        certificates = CertificateWatch(self._mqtt.broker.tls)
        certificates.check()
        while not self._stop.wait(TICK):
            self._look()
            now = time.monotonic()
            if now - slow_at >= SLOW_TICK:
                slow_at = now
                self._clock.check(self.pipeline.skew_ms)
                certificates.check()
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
            "%s%s acknowledged=%d stale=%d returned=%d retries=%d",
            f"{self._route.name}: " if self._route is not None else "",
            books.balance(),
            books.acknowledged,
            books.stale,
            books.returned,
            books.retries,
        )
        self._notifier.status(str(books.balance()))

    def _finish(self, worker: threading.Thread) -> bool:
        """Drain, leave if requested, and close; return False if messages are left."""
        self._notifier.stopping()
        stopping = Shutdown(self.client, self.pipeline, self.settings, has_failed=lambda: self._failure is not None)
        left = False
        leaves = self._options.leave or self.settings.leave_on_stop
        if leaves and self.client.connected and not self.pipeline.blocked:
            left = stopping.unsubscribe_and_empty(self.filters)
        drained = stopping.drain(worker)
        self._log_books()
        self.client.close(flush=0.0)
        if not worker.is_alive():
            self._sink.close()
        if left and drained:
            self.session.end()
            if self.group is not None:
                self.group.leave()
        return drained

    # -- the connection ----------------------------------------------------------------------------

    def _receive(self, messages: list[Message]) -> None:
        """Queue messages; called in the network thread."""
        for message in messages:
            if message.topic.startswith(self._reserved):
                self.canary.receive(message)
        intake = self.pipeline.intake
        if not intake.offer(messages) and any(message.qos > 0 for message in messages):
            self._reconnect(messages)

    def _reconnect(self, refused: list[Message]) -> None:
        """End the connection, so that the broker sends the refused messages again; log it once for each connection."""
        drop_connection(self.client)
        if self._refused_on == refused[0].epoch:
            return
        self._refused_on = refused[0].epoch
        intake = self.pipeline.intake
        if intake.paused:
            logger.info("the connection ended while the queue was full: the broker sends the unread messages again")
        else:
            logger.error("no room for %d more messages (%d are waiting): reconnecting", len(refused), intake.queued)

    def _note_state(self, state: ConnectionState, _reason: str) -> None:
        """Handle a change of the connection; called in the network thread, before any message of a new connection."""
        if state is ConnectionState.CONNECTED:
            client = self.client
            self.pipeline.intake.reconnected(connection_number(client), session_present=client.session_present)
            self.session.watch.connected(present=client.session_present)
        else:
            self.pipeline.intake.disconnected()
            self.session.watch.disconnected()
            self.session.password.refresh(self.client)
            if self._takeovers.too_many(self.client.failure):
                self._failure = self._failure or self.client.failure
                self._stop.set()

    def _acknowledge(self, messages: Sequence[Message]) -> int:
        ack = self.client.ack
        return sum(ack(message) for message in messages if message.qos)

    # -- health and metrics ------------------------------------------------------------------------

    def health(self) -> Health:
        """Return what is wrong. Call it from any thread."""
        return Health(self._not_live(), self._not_ready(), self.group.warnings() if self.group is not None else [])

    def samples(self) -> list[Sample]:
        """Return the samples for Prometheus. Call it from any thread."""
        ready = not self._not_ready()
        samples = samples_of(self.pipeline, self.client, self.session.watch, ready=ready, resident=resident_bytes())
        if self.group is not None:
            missing = len(self.group.missing())
            samples.append(Sample("missing_members", "Members of the group that are missing", "gauge", missing))
        return samples

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
            wrong += self._keeper.problems()
        if self.pipeline.blocked:
            wrong.append(self.pipeline.blocked)
        if self.pipeline.intake.fill >= FULL:
            wrong.append(f"the queue is {self.pipeline.intake.fill:.0%} full")
        if self._stop.is_set:
            wrong.append("stopping")
        return wrong
