"""Prove that nothing is lost: send numbered metrics through broker, bridge and sink while killing the bridge."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import multiprocessing
import secrets
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.context import SpawnProcess
from typing import Any

from mqttkit.bridge.flow.accounting import Books
from mqttkit.bridge.group import forget_member
from mqttkit.bridge.metric import check_metric_template, reserved_prefix
from mqttkit.bridge.service import Bridge
from mqttkit.bridge.session import end_session
from mqttkit.bridge.sinks.read_back import stored_ids
from mqttkit.bridge.subscription import bridge_filter
from mqttkit.bridge.tenants import open_registry
from mqttkit.bridge.verification.place import own_place
from mqttkit.client import MqttClient, Receipt
from mqttkit.errors import BridgeError, MqttkitError, UsageError
from mqttkit.messages import Outcome
from mqttkit.settings import Settings

logger = logging.getLogger(__name__)

STALL_SECONDS = 15.0
"""How long the bridge may take to commit something after its start."""
LOST_SECONDS = 45.0
"""If nothing new arrives in the sink for so long, missing metrics count as lost. NATS sends again after 30 s."""
CHUNK = 2_000
"""Metrics to publish before waiting for their acknowledgements."""

_context = multiprocessing.get_context("spawn")


@dataclass(frozen=True, kw_only=True)
class ProofSettings:
    """Settings of one proof."""

    settings: Settings
    """The user's settings: broker, sink, tenants."""
    count: int = 100_000
    kills: int = 8
    publisher: str | None = None
    """User that may publish metrics; by default the bridge's user."""
    publisher_password_file: str | None = None
    time_limit: float = 600.0
    """Seconds."""
    in_place: bool = False
    """Store in the user's own sink, under the registry's first tenant, and leave the metrics there."""


@dataclass(frozen=True, kw_only=True)
class ProofResult:
    """What the proof found."""

    agent: str
    published: int
    """Metrics that the broker acknowledged."""
    stored: int
    """Different metrics in the sink."""
    duplicates: int
    """Metrics that a bridge received again and did not store again."""
    twice: int
    """Surplus rows of metrics that are stored more than once."""
    kills: int
    seconds: float

    @property
    def lost(self) -> int:
        """Metrics published and not stored."""
        return self.published - self.stored

    @property
    def passed(self) -> bool:
        """True if every metric is stored once."""
        return self.lost == 0 and self.twice == 0

    def line(self) -> str:
        """Return the result as one line."""
        return (
            f"published={self.published} stored={self.stored} duplicates={self.duplicates} twice={self.twice}"
            f" lost={self.lost} kills={self.kills} seconds={self.seconds:.1f} agent={self.agent}"
        )


class _TallyBooks(Books):
    """Books that copy two counters to shared memory, which survives the process."""

    def __init__(self, tally: Any) -> None:
        super().__init__()
        self.tally = tally

    def settle(self, *, stored: int, duplicate: int, reasons: Counter[str]) -> None:
        super().settle(stored=stored, duplicate=duplicate, reasons=reasons)
        self.tally[0] += stored + duplicate
        self.tally[1] += duplicate


def _run_bridge(settings: Settings, tally: Any, ready: Any) -> None:
    """Run the bridge in a child process."""
    logging.getLogger("mqttkit").setLevel(logging.ERROR)
    service = Bridge(settings, books=_TallyBooks(tally))
    signal.signal(signal.SIGTERM, lambda _number, _frame: service.stop())
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        while not service.ready:
            time.sleep(0.02)
        ready.set()

    threading.Thread(target=watch, daemon=True).start()
    service.run()


class Proof:
    """One proof, run once."""

    def __init__(self, proof: ProofSettings) -> None:
        """Check the settings; raise UsageError."""
        bridge = proof.settings.bridge
        if not bridge.sink:
            raise UsageError("no sink given", hint="Example: --sink sqlite:metrics.db")
        self._proof = proof
        self._name = f"verify-{secrets.token_hex(6)}"
        self._tenant = _first_tenant(bridge.tenants) if proof.in_place else ""
        self._settings = _isolated(proof.settings, self._name)
        if proof.in_place:
            if bridge.list and bridge.job_format != "mqttkit":
                raise UsageError(
                    f"--in-place cannot read jobs of the format {bridge.job_format}", hint="Omit --in-place"
                )
            stored_ids(self._settings.bridge, self._name)
        self._tally = _context.Array("Q", 2, lock=False)
        self._ready = _context.Event()
        self._deadline = time.monotonic() + proof.time_limit
        self._process: SpawnProcess | None = None
        self._at_start = 0
        self._published: set[str] = set()
        self._failure: Exception | None = None
        self._stop = threading.Event()

    @property
    def published(self) -> int:
        """Metrics that the broker has acknowledged so far."""
        return len(self._published)

    def run(self) -> ProofResult:
        """Publish, kill the bridge, wait and count. At the end, remove the bridge's session and what it has stored."""
        if self._proof.in_place:
            return self._run()
        with own_place(self._settings.bridge, self._name) as place:
            self._settings = dataclasses.replace(self._settings, bridge=place)
            self._tenant = _first_tenant(place.tenants)
            return self._run()

    def _run(self) -> ProofResult:
        began = time.monotonic()
        try:
            self._start()
            self._wait(self._ready.is_set, "the bridge to be ready: see mqttkit bridge run")
            published = self._publish_and_kill()
            names = self._wait_for_rows(published)
        finally:
            self._end()
            self._remove_session()
        found = [name for name in names if name in published]
        return ProofResult(
            agent=self._name,
            published=len(published),
            stored=len(set(found)),
            duplicates=self._tally[1],
            twice=len(found) - len(set(found)),
            kills=self._proof.kills,
            seconds=time.monotonic() - began,
        )

    def _start(self) -> None:
        self._at_start = self._tally[0]
        self._process = _context.Process(
            target=_run_bridge, args=(self._settings, self._tally, self._ready), name="bridge", daemon=True
        )
        self._process.start()

    def _kill(self) -> None:
        """Wait until the bridge has committed something since its start, kill it, and start it again."""
        patience = time.monotonic() + STALL_SECONDS
        self._wait(
            lambda: self._tally[0] > self._at_start or time.monotonic() > patience, "the bridge to commit something"
        )
        if self._process is not None:
            self._process.kill()
            self._process.join()
        self._start()

    def _publish_and_kill(self) -> set[str]:
        """Publish all metrics and kill the bridge at regular intervals; return the names that the broker has."""
        total, kills = self._proof.count, self._proof.kills
        thread = threading.Thread(target=self._publish, name="verify-publisher", daemon=True)
        thread.start()
        try:
            for kill in range(kills):
                at = total * (kill + 1) // (kills + 1)
                self._wait(lambda: len(self._published) >= at or not thread.is_alive(), "metrics to be published")  # noqa: B023 - called now
                self._kill()
            self._wait(lambda: not thread.is_alive(), "metrics to be published")
        finally:
            self._stop.set()
            thread.join()
        if self._failure is not None:
            raise self._failure
        return self._published

    def _publish(self) -> None:
        """Publish all metrics; runs in a separate thread."""
        topic = self._settings.bridge.topic.format(tenant_id=self._tenant, agent_id=self._name, metric_name="verify")
        names = [f"{self._name}-{number}" for number in range(self._proof.count)]
        try:
            with self._publisher() as client:
                for start in range(0, len(names), CHUNK):
                    self._published.update(_publish_chunk(client, topic, names[start : start + CHUNK]))
                    if self._stop.is_set():
                        return
        except Exception as error:  # noqa: BLE001 - the caller raises it
            self._failure = error

    @contextlib.contextmanager
    def _publisher(self) -> Iterator[MqttClient]:
        mqtt = self._settings.mqtt
        broker = mqtt.broker
        if self._proof.publisher is not None:
            password = None
            if self._proof.publisher_password_file is not None:
                password = _first_line(self._proof.publisher_password_file)
            broker = dataclasses.replace(broker, username=self._proof.publisher, password=password)
        client = dataclasses.replace(mqtt.client, client_id=None, clean_session=True, session_expiry=0)
        limits = dataclasses.replace(mqtt.limits, max_inflight=1_000)
        with MqttClient(dataclasses.replace(mqtt, broker=broker, client=client, limits=limits)) as publisher:
            publisher.connect(timeout=10)
            yield publisher

    def _wait_for_rows(self, published: set[str]) -> list[str]:
        """Wait until all metrics are in the sink, or nothing new arrives; return the names in the sink."""
        names: list[str] = []
        changed = time.monotonic()
        while time.monotonic() - changed < LOST_SECONDS:
            before = len(names)
            names = stored_ids(self._settings.bridge, self._name)
            if published <= set(names):
                break
            if len(names) != before:
                changed = time.monotonic()
            self._check_time()
            time.sleep(0.5)
        return names

    def _end(self) -> None:
        if self._process is None:
            return
        self._process.terminate()
        self._process.join(self._settings.bridge.drain_timeout + 5)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def _remove_session(self) -> None:
        client_id = self._settings.mqtt.client.client_id or ""
        try:
            end_session(self._settings.mqtt)
            forget_member(self._settings.mqtt, bridge_filter(self._settings.bridge), client_id)
        except MqttkitError as error:
            logger.warning("cannot remove the session %s from the broker: %s", client_id, error)

    def _wait(self, condition: Callable[[], bool], what: str) -> None:
        while not condition():
            self._check_time(what)
            if self._process is not None and self._process.exitcode is not None:
                raise BridgeError(f"the bridge ended with exit code {self._process.exitcode} while waiting for {what}")
            time.sleep(0.01)

    def _check_time(self, what: str = "the proof") -> None:
        if time.monotonic() > self._deadline:
            raise BridgeError(f"the time limit expired while waiting for {what}", hint="Raise it: --time-limit")


def _isolated(settings: Settings, name: str) -> Settings:
    """Return settings for a bridge with the user's broker and sink, but with its own session and topics."""
    bridge = settings.bridge
    check_metric_template(bridge.topic)
    prefix = reserved_prefix(bridge.topic)
    rest = bridge.topic[len(bridge.topic.split("{", 1)[0]) :]
    topic = f"{prefix}{name}/{rest}"
    client = dataclasses.replace(settings.mqtt.client, client_id=f"mqttkit-{name}", session_expiry=3_600)
    return dataclasses.replace(
        settings,
        bridge=dataclasses.replace(bridge, topic=topic, health_port=None, leave_on_stop=False, live=False),
        mqtt=dataclasses.replace(settings.mqtt, client=client),
    )


def _first_tenant(address: str | None) -> str:
    """Return the first tenant of a registry; raise UsageError."""
    if not address:
        raise UsageError("no tenants given", hint="Example: --tenants tenants.yaml")
    with contextlib.closing(open_registry(address)) as registry:
        tenants = registry.all()
    if not tenants:
        raise UsageError("the registry has no tenant", hint="Add one: mqttkit bridge tenant add UUID")
    return next(iter(tenants))


def _publish_chunk(client: MqttClient, topic: str, names: list[str]) -> list[str]:
    """Publish metrics and return the names of those that the broker acknowledged."""
    receipts: list[tuple[str, Receipt]] = []
    for name in names:
        payload = json.dumps({"value": int(name.rpartition("-")[2]), "dedupe_id": name}).encode()
        receipts.append((name, client.publish(topic, payload, qos=1, wait=30.0)))
    acknowledged = []
    for name, receipt in receipts:
        outcome = receipt.wait(30.0)
        if outcome is Outcome.DENIED:
            hint = "Give a user that may publish: --publisher"
            raise BridgeError(f"the broker denied publishing to {topic}: {receipt.reason}", hint=hint)
        if outcome is Outcome.ACKNOWLEDGED:
            acknowledged.append(name)
    return acknowledged


def _first_line(path: str) -> str:
    from pathlib import Path

    try:
        return Path(path).read_text("utf-8").splitlines()[0]
    except (OSError, IndexError) as error:
        raise UsageError(f"cannot read the password in {path}: {error}") from error
