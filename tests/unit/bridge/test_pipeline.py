"""Queue, batch, commit, acknowledge."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from mqttkit.bridge.flow.intake import PipelineLimits
from mqttkit.bridge.flow.pipeline import Pipeline
from mqttkit.bridge.metric import Metric, MetricParser, RefusalReason
from mqttkit.bridge.sinks.sqlite import SqliteSink
from mqttkit.bridge.sinks.types import Committed, MetricBatch, SinkOptions
from mqttkit.errors import RegistryUnavailable, SinkBroken, SinkRefused, SinkUnavailable
from mqttkit.messages import Message
from mqttkit.settings import BridgeSettings
from tests.support.bridges import wait_until

TENANT = "6f1d7c1e-0000-4000-8000-000000000001"
OTHER = "6f1d7c1e-0000-4000-8000-000000000002"


class Known:
    """A registry that knows one tenant, and may fail first."""

    failures = 0

    def known(self, tenants: set[str]) -> set[str]:
        if self.failures:
            self.failures -= 1
            raise RegistryUnavailable("down")
        return tenants & {TENANT}


class TroubledSink(SqliteSink):
    """SQLite, with errors raised on demand before the real commit."""

    def __init__(self, path: str) -> None:
        super().__init__(path, SinkOptions())
        self.errors: list[Exception] = []
        self.poison: float | None = None
        self.batches: list[MetricBatch] = []

    def commit(self, batch: MetricBatch) -> Committed:
        self.batches.append(batch)
        if self.errors:
            raise self.errors.pop()
        if any(metric.value == self.poison for metric in batch.metrics):
            raise SinkRefused("a value it will not take")
        return super().commit(batch)


class Bench:
    """A pipeline with a real SQLite sink, and the acknowledgements it sent."""

    def __init__(self, directory: Path, **limits: float) -> None:
        self.sink = TroubledSink(str(directory / "metrics.db"))
        self.sink.open()
        self.registry = Known()
        self.acknowledged: list[int] = []
        self.pipeline = Pipeline(
            parser=MetricParser(BridgeSettings.topic, payload_limit=1_000),
            registry=self.registry,
            sink=self.sink,
            acknowledge=self.acknowledge,
            limits=PipelineLimits(**limits),  # type: ignore[arg-type]
        )

    def acknowledge(self, messages: Sequence[Message]) -> int:
        self.acknowledged += [message.mid for message in messages if message.qos]
        return len([message for message in messages if message.qos])

    def offer(self, *messages: Message) -> bool:
        return self.pipeline.intake.offer(list(messages))

    def check(self, *, stored: int = 0, duplicate: int = 0, dead: int = 0, waiting: int = 0) -> None:
        balance = self.pipeline.books.balance()
        assert balance.difference == 0
        assert (balance.stored, balance.duplicate, balance.dead_lettered, balance.in_flight) == (
            stored,
            duplicate,
            dead,
            waiting,
        )


@pytest.fixture
def bench(tmp_path: Path) -> object:
    made = Bench(tmp_path)
    yield made
    made.sink.close()


def message(
    number: int, payload: bytes | None = None, *, tenant: str = TENANT, qos: int = 1, **more: object
) -> Message:
    body = payload if payload is not None else b'{"value":%d,"dedupe_id":"d%d"}' % (number, number)
    return Message(f"metrics/{tenant}/a/t", body, qos=qos, mid=number, epoch=1, **more)  # type: ignore[arg-type]


def test_acknowledges_in_order_after_the_commit(bench: Bench) -> None:
    """Metrics, duplicates, dead letters and unknown tenants are committed, then acknowledged as received."""
    bench.offer(message(1), message(2, b"{"), message(3, tenant=OTHER), message(4), message(1), message(5, qos=0))
    assert bench.pipeline.step(0)
    assert bench.acknowledged == [1, 2, 3, 4, 1]
    bench.check(stored=3, duplicate=1, dead=2)
    assert bench.pipeline.books.reasons == {"json_syntax": 1, "tenant_unknown": 1}
    letters = bench.sink.letters.read()
    assert [(letter.letter.reason, letter.letter.body) for letter in letters] == [
        ("json_syntax", b"{"),
        ("tenant_unknown", b'{"value":3,"dedupe_id":"d3"}'),
    ]


def test_nothing_is_acknowledged_while_the_sink_fails(bench: Bench) -> None:
    """The same batch is tried again until it is committed; only then are its messages acknowledged."""
    bench.sink.errors = [SinkUnavailable("down"), SinkUnavailable("down")]
    seen: list[tuple[list[int], str]] = []
    real = bench.sink.commit
    bench.sink.commit = lambda batch: (  # type: ignore[method-assign]
        seen.append((list(bench.acknowledged), bench.pipeline.blocked)),
        real(batch),
    )[1]
    bench.offer(message(1), message(2))
    assert bench.pipeline.step(0)
    assert seen == [([], ""), ([], "down"), ([], "down")]
    assert len({batch.id for batch in bench.sink.batches}) == 1
    assert bench.acknowledged == [1, 2]
    assert bench.pipeline.blocked == ""
    assert bench.pipeline.books.retries == 2
    bench.check(stored=2)


def test_registry_that_fails_blocks_and_refuses_nobody(bench: Bench) -> None:
    """A registry out of reach is waited for: no tenant is unknown because of it."""
    bench.registry.failures = 1
    bench.offer(message(1))
    assert bench.pipeline.step(0)
    bench.check(stored=1)


def test_poison_for_the_sink_alone_becomes_a_dead_letter(bench: Bench) -> None:
    """A batch that the sink refuses is halved until the one bad metric is found; the rest is stored."""
    bench.sink.poison = 7
    bench.offer(*(message(number) for number in range(1, 12)), message(99, b"["))
    assert bench.pipeline.step(0)
    assert bench.acknowledged == [*range(1, 12), 99]
    bench.check(stored=10, dead=2)
    assert bench.pipeline.books.reasons == {RefusalReason.SINK_REFUSED: 1, RefusalReason.JSON_SYNTAX: 1}


def test_fault_21_exception_in_a_handler(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    """An exception nobody expected, in parser or sink: logged, counted, dead-lettered; the stream goes on."""
    bench.sink.errors = [ZeroDivisionError("in the sink")]
    bench.offer(message(1))
    assert bench.pipeline.step(0)
    bench.pipeline._parser.parse = lambda *_, **__: 1 / 0  # type: ignore[assignment,return-value,method-assign]
    bench.offer(message(2))
    assert bench.pipeline.step(0)
    assert bench.pipeline.books.reasons == {RefusalReason.HANDLER_ERROR: 2}
    assert bench.pipeline.books.handler_errors == 2
    assert bench.acknowledged == [1, 2]
    bench.check(dead=2)
    assert "ZeroDivisionError" in caplog.text


def test_sink_that_takes_no_dead_letter_stops_the_bridge(bench: Bench) -> None:
    """What can be neither stored nor dead-lettered is not acknowledged: the bridge stops."""
    bench.sink.errors = [SinkRefused("no"), SinkRefused("no")]
    bench.offer(message(1, b"["))
    with pytest.raises(SinkBroken):
        bench.pipeline.step(0)
    assert bench.acknowledged == []
    bench.check(waiting=1)


def test_queue_is_bounded_in_messages_and_bytes(tmp_path: Path) -> None:
    """Beyond either bound nothing is taken; one message alone may be larger than the bound."""
    bench = Bench(tmp_path, queue_messages=3, queue_bytes=100)
    assert bench.offer(message(1, b"x" * 500))
    assert not bench.offer(message(2, b"y" * 10))
    assert bench.pipeline.step(0)
    assert bench.offer(message(3), message(4), message(5, qos=0))
    assert not bench.offer(message(6), message(7, qos=0))
    books = bench.pipeline.books
    assert (books.overflows, books.turned_away, books.lost_qos0) == (2, 3, 1)
    assert bench.pipeline.intake.fill == 1.0
    bench.check(dead=1, waiting=3)
    bench.sink.close()


def test_connection_with_its_session_takes_back_what_waits(bench: Bench) -> None:
    """The broker sends unacknowledged messages again, so those that wait are given back, but not QoS 0."""
    bench.offer(message(1), message(2, qos=0))
    bench.pipeline.intake.reconnected(2, session_present=True)
    bench.offer(message(1)._replace(epoch=2, dup=True))
    assert bench.pipeline.step(0)
    assert bench.acknowledged == [1]
    assert bench.pipeline.books.returned == 1
    bench.check(stored=2)


def test_connection_without_its_session_keeps_what_waits(bench: Bench) -> None:
    """Nobody would send it again: it is committed."""
    bench.offer(message(1))
    bench.pipeline.intake.reconnected(2, session_present=False)
    assert bench.pipeline.step(0)
    bench.check(stored=1)


def test_retained_message_is_stored_once_however_often_it_is_replayed(bench: Bench) -> None:
    """A replayed retained message without dedupe_id is known by its content; equal live ones are not."""
    for _ in range(3):
        bench.offer(message(1, b'{"value":1}', retain=True), message(2, b'{"value":1}'))
        assert bench.pipeline.step(0)
    bench.check(stored=4, duplicate=2)


def test_drain_commits_what_was_taken_and_takes_no_more(bench: Bench) -> None:
    """`run` ends when the queue is empty; later messages are turned away, to be sent again by the broker."""
    bench.offer(message(1))
    bench.pipeline.intake.drain()
    assert bench.offer(message(2))
    bench.pipeline.run(beat=0.01)
    assert bench.acknowledged == [1]
    assert bench.pipeline.books.turned_away == 1
    bench.check(stored=1)


def test_stop_gives_up_a_commit_that_does_not_succeed(bench: Bench) -> None:
    """Stopped while the sink is down, `run` ends, and nothing was acknowledged."""
    bench.sink.commit = _always_down  # type: ignore[method-assign,assignment]
    bench.offer(message(1))
    thread = threading.Thread(target=bench.pipeline.run)
    thread.start()
    wait_until(lambda: bench.pipeline.blocked)
    bench.pipeline.intake.stop()
    thread.join(5)
    assert not thread.is_alive()
    assert bench.acknowledged == []
    bench.check(waiting=1)


def test_idle_worker_probes_the_sink(bench: Bench) -> None:
    """Without traffic a sink that is gone is noticed, and so is its return."""
    probes = [SinkUnavailable("gone")]
    done = threading.Event()

    def probe() -> None:
        if probes:
            raise probes.pop()
        done.set()

    bench.sink.probe = probe  # type: ignore[method-assign]
    thread = threading.Thread(target=bench.pipeline.run, kwargs={"beat": 0.01, "probe_after": 0.01})
    thread.start()
    assert done.wait(10)
    bench.pipeline.intake.drain()
    thread.join(5)
    assert bench.pipeline.books.retries == 1


def test_lone_message_does_not_wait_for_company(tmp_path: Path) -> None:
    """Idle, the batching window is closed: a message is committed at once."""
    bench = Bench(tmp_path, batch_window=5.0)
    bench.offer(message(1))
    began = time.monotonic()
    assert bench.pipeline.step(0)
    assert time.monotonic() - began < 2
    bench.sink.close()


class ReadAheadCase:
    """A pipeline in batches of two, whose commits wait until the next batch was parsed, or looked for in vain."""

    def __init__(self, directory: Path) -> None:
        self.bench = Bench(directory, batch_size=2)
        self.parsed: list[tuple[int, str]] = []
        self.meanwhile: list[Callable[[], object]] = []
        """What happens in each commit, before it is done."""
        parser, commit = self.bench.pipeline._parser, self.bench.sink.commit
        parse = parser.parse

        def note(topic: str, payload: bytes, *rest: int, **more: str | None) -> Metric:
            metric = parse(topic, payload, *rest, **more)
            self.parsed.append((int(metric.value), threading.current_thread().name))
            return metric

        def wait(batch: MetricBatch) -> Committed:
            if self.meanwhile:
                self.meanwhile.pop(0)()
            return commit(batch)

        parser.parse = note  # type: ignore[method-assign,assignment]
        self.bench.sink.commit = wait  # type: ignore[method-assign]

    def run(self) -> None:
        self.bench.pipeline.intake.drain()
        self.bench.pipeline.run(beat=0.01)
        self.bench.sink.close()

    def wait_parsed(self, number: int) -> None:
        wait_until(lambda: number in dict(self.parsed))

    @property
    def ahead(self) -> list[int]:
        """What was parsed ahead, not by the thread that commits."""
        return [value for value, thread in self.parsed if thread.startswith("bridge-ahead")]


def test_full_batch_is_parsed_while_the_one_before_is_committed(tmp_path: Path) -> None:
    """Each message is parsed once, and acknowledged in order of receipt after its own batch's commit only."""
    case = ReadAheadCase(tmp_path)
    acknowledged: list[list[int]] = []
    for last in (4, 6):
        case.meanwhile.append(
            lambda last=last: (case.wait_parsed(last), acknowledged.append(list(case.bench.acknowledged)))  # type: ignore[misc]
        )
    case.bench.offer(*(message(number) for number in range(1, 8)))
    case.run()
    assert acknowledged == [[], [1, 2]]
    assert case.ahead == [3, 4, 5, 6]
    assert [value for value, _ in case.parsed] == [1, 2, 3, 4, 5, 6, 7]
    assert case.bench.acknowledged == [1, 2, 3, 4, 5, 6, 7]
    case.bench.check(stored=7)


def test_batch_parsed_ahead_is_given_back_with_its_connection(tmp_path: Path) -> None:
    """What was only parsed is the broker's again after a reconnect: it is neither committed nor acknowledged."""
    case = ReadAheadCase(tmp_path)
    seen: list[tuple[int, int]] = []
    case.bench.pipeline._acknowledge = lambda messages: (  # type: ignore[method-assign]
        seen.extend((one.mid, one.epoch) for one in messages),
        len(messages),
    )[1]
    intake = case.bench.pipeline.intake

    def reconnect() -> None:
        case.wait_parsed(4)
        intake.reconnected(2, session_present=True)
        intake.offer([message(number)._replace(epoch=2, dup=number < 5) for number in (5, 6, 3, 4)])
        intake.drain()

    case.meanwhile.append(reconnect)
    case.bench.offer(*(message(number) for number in range(1, 5)))
    assert case.bench.pipeline.step(0)
    case.run()
    assert seen == [(1, 1), (2, 1), (5, 2), (6, 2), (3, 2), (4, 2)]
    assert [[metric.value for metric in batch.metrics] for batch in case.bench.sink.batches] == [[1, 2], [5, 6], [3, 4]]
    assert case.bench.pipeline.books.returned == 2
    case.bench.check(stored=6)


def test_registry_that_fails_ahead_is_asked_again(tmp_path: Path) -> None:
    """Out of reach while it looked ahead, the registry is waited for: nobody is refused because of it."""
    case = ReadAheadCase(tmp_path)

    def fail() -> None:
        case.bench.registry.failures = 2
        case.bench.offer(message(3), message(4))
        case.wait_parsed(4)

    case.meanwhile.append(fail)
    case.bench.offer(message(1), message(2))
    assert case.bench.pipeline.step(0)
    case.run()
    assert [value for value, _ in case.parsed].count(3) == 3
    assert case.bench.pipeline.books.retries == 1
    case.bench.check(stored=4)


def test_stop_ends_a_look_ahead_in_vain(tmp_path: Path) -> None:
    """Stopped in a commit with no further batch in sight, `run` ends with the commit's acknowledgements."""
    case = ReadAheadCase(tmp_path)
    case.meanwhile.append(case.bench.pipeline.intake.stop)
    case.bench.offer(message(1), message(2), message(3))
    assert case.bench.pipeline.step(0)
    case.run()
    assert case.bench.acknowledged == [1, 2]
    case.bench.check(stored=2, waiting=1)


def _always_down(batch: MetricBatch) -> Committed:
    raise SinkUnavailable("down")
