"""One run: subscribers in this process, publishers in another, and the numbers of both."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from mqttkit.bench.feeder import Feeder, numbered
from mqttkit.bench.histogram import Histogram
from mqttkit.bench.plan import Plan, Sent
from mqttkit.bench.publishing import publish_all
from mqttkit.bench.receiving import MessageReceiver, wait_for_all
from mqttkit.bench.report.result import BenchResult
from mqttkit.bench.usage import cpu_seconds, peak_memory
from mqttkit.client import MqttClient
from mqttkit.errors import BrokerUnreachable, Interrupted, MqttkitError
from mqttkit.messages import Subscription
from mqttkit.settings import MqttSettings
from mqttkit.stop import Stop

Progress = Callable[[float, int, int], None]
"""Called regularly with seconds since the start, messages sent and messages received."""
MIB = 1024 * 1024


def run(plan: Plan, settings: MqttSettings, *, stop: Stop, progress: Progress | None = None) -> BenchResult:
    """Do one run; `stop` ends it early with a partial result. Raise MqttkitError if it cannot start.

    If the connection is lost later, the result is partial and has the exit code of that error.
    """
    if plan.scenario == "connections":
        from mqttkit.bench.connections import run_connections

        return run_connections(plan, settings, stop)
    if plan.scenario in ("pub", "roundtrip"):
        return _run_here(plan, settings, stop, progress)
    return _run_apart(plan, settings, stop, progress)


def _run_here(plan: Plan, settings: MqttSettings, stop: Stop, progress: Progress | None) -> BenchResult:
    """Publish from this process; receive in the same clients if the plan has a subscriber."""
    receiver = MessageReceiver(plan)
    latencies = Histogram()
    with ExitStack() as stack:
        clients = []
        for index in range(plan.publishers):
            client = MqttClient(numbered(settings, f"{index}"), retry=False, on_messages=receiver.receive)
            stack.callback(client.close, flush=0)
            client.connect()
            clients.append(client)
        if plan.subscribers:
            clients[0].subscribe(Subscription(f"{plan.topic}/#", qos=plan.qos))
        cpu = cpu_seconds()
        with _reporting(progress, [receiver]) as report:
            sent = publish_all(plan, clients, stop=stop, latencies=latencies, progress=report)
            if plan.subscribers and not sent.error:
                wait_for_all([receiver], sum(sent.messages), plan.drain, lambda: _ended_early(clients, stop))
        cpu = cpu_seconds() - cpu
        return _result(plan, sent, [receiver] if plan.subscribers else [], latencies, cpu, stop, _failure(clients))


def _run_apart(plan: Plan, settings: MqttSettings, stop: Stop, progress: Progress | None) -> BenchResult:
    """Receive in this process, publish in another."""
    receivers = [_receiver(plan) for _ in range(plan.subscribers)]
    with ExitStack() as stack:
        feeder = stack.enter_context(Feeder(plan, settings))
        clients = []
        for index, receiver in enumerate(receivers):
            client = MqttClient(numbered(settings, f"sub-{index}"), retry=False, on_messages=receiver.receive)
            stack.callback(client.close, flush=0)
            client.connect()
            client.subscribe(Subscription(f"{plan.topic}/#", qos=plan.qos))
            clients.append(client)
        feeder.wait_ready()
        cpu = cpu_seconds()
        feeder.go()
        with _reporting(progress, receivers):
            sent = _wait_for_feeder(feeder, clients, stop)
            if not sent.error:
                wait_for_all(receivers, sum(sent.messages), plan.drain, lambda: _ended_early(clients, stop))
        cpu = cpu_seconds() - cpu
        return _result(plan, sent, receivers, Histogram(), cpu, stop, _failure(clients))


def _receiver(plan: Plan) -> MessageReceiver:
    if plan.scenario != "scan":
        return MessageReceiver(plan)
    from mqttkit.bench.scan import read_advertisement

    return MessageReceiver(plan, read=read_advertisement)


def _wait_for_feeder(feeder: Feeder, clients: list[MqttClient], stop: Stop) -> Sent:
    """Wait for the publishing process; stop it if this side ends first."""
    found: list[Sent | MqttkitError] = []

    def wait() -> None:
        try:
            found.append(feeder.result())
        except MqttkitError as error:
            found.append(error)

    waiter = threading.Thread(target=wait, name="feeder", daemon=True)
    waiter.start()
    while waiter.is_alive() and not _ended_early(clients, stop):
        waiter.join(0.05)
    if not found:
        feeder.stop()
        waiter.join(10)
    if found and isinstance(found[0], Sent):
        return found[0]
    cause = found[0] if found else _failure(clients)
    return Sent((0,), 0.0, 0.0, {}, 0.0, str(cause or "stopped"), cause.exit_code if cause else Interrupted.exit_code)


def _ended_early(clients: list[MqttClient], stop: Stop) -> bool:
    """Return True if the user stopped the run, or a connection ended for good."""
    return stop.is_set or _failure(clients) is not None


def _failure(clients: list[MqttClient]) -> MqttkitError | None:
    return next((client.failure for client in clients if client.failure is not None), None)


@contextmanager
def _reporting(progress: Progress | None, receivers: list[MessageReceiver]) -> Iterator[Callable[[int], None]]:
    """Call `progress` twice a second while the body runs; the body reports how many messages it has sent."""
    sent, ended, began = [0], threading.Event(), time.monotonic()

    def note(count: int) -> None:
        sent[0] = count

    def watch() -> None:
        while progress is not None and not ended.wait(0.5):
            progress(time.monotonic() - began, sent[0], sum(receiver.received for receiver in receivers))

    thread = threading.Thread(target=watch, name="progress", daemon=True)
    thread.start()
    try:
        yield note
    finally:
        ended.set()
        thread.join()


@dataclass(frozen=True)
class _Ended:
    reason: str
    code: int


def _ended(sent: Sent, failure: MqttkitError | None, stop: Stop) -> _Ended:
    if failure is not None:
        return _Ended(str(failure), failure.exit_code)
    if sent.error:
        return _Ended(sent.error, sent.exit_code or BrokerUnreachable.exit_code)
    return _Ended("interrupted", Interrupted.exit_code) if stop.is_set else _Ended("", 0)


def _result(
    plan: Plan,
    sent: Sent,
    receivers: list[MessageReceiver],
    acknowledged: Histogram,
    cpu: float,
    stop: Stop,
    failure: MqttkitError | None,
) -> BenchResult:
    ended = _ended(sent, failure, stop)
    published = sum(sent.messages)
    result = BenchResult(plan, partial=ended.reason, exit_code=ended.code)
    metrics = result.metrics
    metrics["published"] = published
    metrics["publish_rate"] = published / sent.seconds if sent.seconds else 0.0
    if receivers:
        _add_received(result, sent, receivers, cpu)
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
    _add_notes(result)
    return result


def _add_received(result: BenchResult, sent: Sent, receivers: list[MessageReceiver], cpu: float) -> None:
    plan, metrics = result.plan, result.metrics
    for receiver in receivers:
        receiver.end_interval(time.monotonic_ns() if receiver.last == 0 else receiver.last)
    received = sum(receiver.received for receiver in receivers)
    first = min((receiver.first for receiver in receivers if receiver.first), default=0)
    seconds = (max(receiver.last for receiver in receivers) - first) / 1e9
    latencies = Histogram()
    for receiver in receivers:
        latencies.merge(receiver.latencies)
    metrics["received"] = received
    metrics["rate"] = received / seconds if seconds > 0 else 0.0
    metrics["mib"] = sum(receiver.bytes for receiver in receivers) / MIB / seconds if seconds > 0 else 0.0
    metrics.update(latencies.summary())
    streams = [(sequence, index) for receiver in receivers for index, sequence in enumerate(receiver.sequences)]
    known = dict(enumerate(sent.messages))
    metrics["lost"] = sum(sequence.lost(known.get(index, 0)) for sequence, index in streams)
    metrics["duplicated"] = sum(sequence.duplicated for sequence, _ in streams)
    metrics["reordered"] = sum(sequence.reordered for sequence, _ in streams)
    if received:
        metrics["cpu_receive"] = cpu / received * 1e6
    metrics["memory"] = peak_memory() / MIB
    result.points = receivers[0].as_points()
    if plan.scenario == "roundtrip":
        for name in ("cpu_receive", "memory"):
            metrics.pop(name, None)  # nothing may have arrived


def _add_notes(result: BenchResult) -> None:
    plan, metrics = result.plan, result.metrics
    if not plan.rate and "p50" in metrics:
        result.notes.append("without --rate every queue is full, and the latencies are those of full queues")
    if plan.rate and metrics.get("behind", 0) > 100:
        result.notes.append("the load generator fell behind its schedule; the latencies include the delay")
