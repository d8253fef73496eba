"""One run: subscribers in this process, publishers in another, and the numbers of both."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

from mqttkit.bench.feeder import Feeder
from mqttkit.bench.fleet import TURN_SECONDS, Fleet
from mqttkit.bench.histogram import LatencyHistogram
from mqttkit.bench.plan import HEADER, Plan, Sent
from mqttkit.bench.publishing import LoadPublisher
from mqttkit.bench.receiving import ArrivalWatch, MessageReceiver
from mqttkit.bench.report.result import BenchResult
from mqttkit.bench.usage import allow_files, cpu_seconds, peak_memory
from mqttkit.errors import BrokerUnreachable, Interrupted, MqttkitError
from mqttkit.settings import MqttSettings
from mqttkit.stop import Stop

ProgressHandler = Callable[[float, int, int], None]
"""Called regularly with seconds since the start, messages sent and messages received."""
MIB = 1024 * 1024
FEEDER_SECONDS = 10.0
"""How long a publishing process that was stopped may take to report."""

STOPPED = Sent((0,), 0.0, 0.0, {}, 0.0, "interrupted", Interrupted.exit_code)
"""Of a publishing process that did not report."""


def run(plan: Plan, settings: MqttSettings, *, stop: Stop, progress: ProgressHandler | None = None) -> BenchResult:
    """Do one run; `stop` ends it early with a partial result. Raise MqttkitError if it cannot start.

    If the connection is lost later, the result is partial and has the exit code of that error.
    """
    if not plan.publishers:
        from mqttkit.bench.connections import run_connections

        return run_connections(plan, settings, stop)
    if plan.scenario in ("pub", "roundtrip"):
        return _run_here(plan, settings, stop, progress)
    return _run_apart(plan, settings, stop, progress)


def _run_here(plan: Plan, settings: MqttSettings, stop: Stop, progress: ProgressHandler | None) -> BenchResult:
    """Publish from this process; receive in the same connections if the plan has a subscriber."""
    receiver, latencies = MessageReceiver(plan), LatencyHistogram()
    allow_files(plan.publishers)
    with Fleet(settings, receive=receiver.receive) as fleet:
        fleet.connect(plan.publishers, stop, rate=plan.connect_rate)
        if plan.subscribers:
            fleet.subscribe(plan.subscriptions(), stop)
        cpu, began = cpu_seconds(), time.monotonic()
        with _reporting(progress, receiver) as report:
            sent = LoadPublisher(plan, fleet, latencies).run(stop, report)
            if plan.subscribers:
                _receive_rest(plan, fleet, receiver, sent, stop)
        side = _Side(fleet, receiver if plan.subscribers else None, cpu_seconds() - cpu, time.monotonic() - began)
        return _result(plan, sent, side, latencies, stop)


def _run_apart(plan: Plan, settings: MqttSettings, stop: Stop, progress: ProgressHandler | None) -> BenchResult:
    """Receive in this process, publish in another."""
    receiver = _receiver(plan)
    allow_files(plan.subscribers)
    with Feeder(plan, settings) as feeder, Fleet(settings, name="sub-", receive=receiver.receive) as fleet:
        fleet.connect(plan.subscribers, stop, rate=plan.connect_rate)
        fleet.subscribe(plan.subscriptions(), stop)
        ready, sent = _Answer(feeder.wait_ready).turn(fleet, lambda: stop.is_set), STOPPED
        cpu, began = cpu_seconds(), time.monotonic()
        if ready and not stop.is_set:
            feeder.go()
            with _reporting(progress, receiver):
                sent = _wait_for_feeder(feeder, fleet, stop)
                _receive_rest(plan, fleet, receiver, sent, stop)
        side = _Side(fleet, receiver, cpu_seconds() - cpu, time.monotonic() - began)
        return _result(plan, sent, side, LatencyHistogram(), stop)


def _receiver(plan: Plan) -> MessageReceiver:
    if plan.scenario != "scan":
        return MessageReceiver(plan)
    from mqttkit.bench.scan import read_advertisement

    return MessageReceiver(plan, read=read_advertisement)


def _receive_rest(plan: Plan, fleet: Fleet, receiver: MessageReceiver, sent: Sent, stop: Stop) -> None:
    """Receive until everything has arrived, or nothing more comes."""
    if sent.error:
        return
    arrival = ArrivalWatch(receiver, sum(plan.expected(dict(enumerate(sent.messages))).values()), plan.drain)
    while not (arrival.over or stop.is_set or fleet.failure):
        fleet.turn(TURN_SECONDS)


T = TypeVar("T")


class _Answer(Generic[T]):
    """The result of a blocking function, which runs in a thread while this one turns the fleet."""

    def __init__(self, wait: Callable[[], T]) -> None:
        self.value: T | None = None
        """None until it returns."""
        self._error: MqttkitError | None = None
        self._wait = wait
        self._thread = threading.Thread(target=self._run, name="feeder", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.value = self._wait()
        except MqttkitError as error:
            self._error = error

    def turn(self, fleet: Fleet, stop: Callable[[], bool]) -> bool:
        """Turn the fleet until there is an answer or `stop` returns True; return whether there is an answer."""
        while self._thread.is_alive() and not stop():
            fleet.turn(TURN_SECONDS)
        if self._error is not None:
            raise self._error
        return not self._thread.is_alive()


def _wait_for_feeder(feeder: Feeder, fleet: Fleet, stop: Stop) -> Sent:
    """Wait for the publishing process; stop it if this side ends first."""
    answer = _Answer(feeder.result)
    try:
        if not answer.turn(fleet, lambda: stop.is_set or fleet.failure is not None):
            feeder.stop()
            end = time.monotonic() + FEEDER_SECONDS
            answer.turn(fleet, lambda: time.monotonic() > end)
    except MqttkitError as error:
        return Sent((0,), 0.0, 0.0, {}, 0.0, str(error), error.exit_code)
    return answer.value or STOPPED


@contextmanager
def _reporting(progress: ProgressHandler | None, receiver: MessageReceiver) -> Iterator[Callable[[int], None]]:
    """Call `progress` twice a second while the body runs; the body reports how many messages it has sent."""
    sent, ended, began = [0], threading.Event(), time.monotonic()

    def note(count: int) -> None:
        sent[0] = count

    def watch() -> None:
        while progress is not None and not ended.wait(0.5):
            progress(time.monotonic() - began, sent[0], receiver.received)

    thread = threading.Thread(target=watch, name="progress", daemon=True)
    thread.start()
    try:
        yield note
    finally:
        ended.set()
        thread.join()


@dataclass(frozen=True)
class _Side:
    """The receiving side at the end of a run."""

    fleet: Fleet
    receiver: MessageReceiver | None
    cpu: float
    """CPU seconds."""
    seconds: float


def _end(result: BenchResult, sent: Sent, failure: MqttkitError | None, stop: Stop) -> None:
    """Record why the run ended early, if it did."""
    if failure is not None:
        result.partial, result.exit_code = str(failure), failure.exit_code
    elif sent.error:
        result.partial, result.exit_code = sent.error, sent.exit_code or BrokerUnreachable.exit_code
    elif stop.is_set:
        result.partial, result.exit_code = "interrupted", Interrupted.exit_code


def _result(plan: Plan, sent: Sent, side: _Side, acknowledged: LatencyHistogram, stop: Stop) -> BenchResult:
    published = sum(sent.messages)
    result = BenchResult(plan)
    _end(result, sent, side.fleet.failure, stop)
    metrics = result.metrics
    metrics["published"] = published
    metrics["publish_rate"] = published / sent.seconds if sent.seconds else 0.0
    if side.receiver is not None:
        add_received(result, sent, side.receiver, side.cpu)
    else:
        metrics["rate"] = metrics["publish_rate"]
        metrics["mib"] = metrics["rate"] * plan.size / MIB
        metrics.update(acknowledged.summary())
    if plan.rate:
        metrics["behind"] = sent.behind * 1000
    metrics["dropped"] = sent.outcomes.get("dropped", 0)
    metrics["failed"] = sent.outcomes.get("denied", 0) + sent.outcomes.get("lost", 0)
    if published:
        metrics["cpu_publish"] = sent.cpu / published * 1e6
    metrics["memory_publish"] = sent.memory / MIB
    for cpu, seconds in ((sent.cpu, sent.seconds), (side.cpu, side.seconds)):
        result.note_generator(cpu, seconds, flat_out=not plan.rate)
    _add_notes(result)
    return result


def add_received(result: BenchResult, sent: Sent, receiver: MessageReceiver, cpu: float) -> None:
    """Add the metrics of what arrived."""
    plan, metrics, received = result.plan, result.metrics, receiver.received
    receiver.end_interval(receiver.last or time.monotonic_ns())
    seconds = (receiver.last - receiver.first) / 1e9
    metrics["received"] = received
    metrics["rate"] = received / seconds if seconds > 0 else 0.0
    metrics["mib"] = receiver.bytes / MIB / seconds if seconds > 0 else 0.0
    metrics.update(receiver.latencies.summary())
    metrics["lost"] = receiver.lost(dict(enumerate(sent.messages)))
    if receiver.foreign:
        result.notes.append(f"{receiver.foreign:,} messages of other publishers arrived and were not counted")
    metrics["duplicated"] = receiver.duplicated
    metrics["reordered"] = receiver.reordered
    if received and plan.scenario != "roundtrip":
        metrics["cpu_receive"] = cpu / received * 1e6
    if plan.scenario != "roundtrip":
        metrics["memory"] = peak_memory() / MIB
    result.points = receiver.as_points()


def _add_notes(result: BenchResult) -> None:
    plan, metrics = result.plan, result.metrics
    if not plan.rate and "p50" in metrics:
        result.notes.append("without --rate every queue is full, and the latencies are those of full queues")
    if not plan.numbered and plan.subscribers:
        result.notes.append(f"payloads below {HEADER.size} bytes have no room for their number and time: no latencies")
