"""The next batch is parsed while the current one is committed."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

from mqttkit.bridge.metric import Metric
from mqttkit.bridge.sinks.types import Committed, MetricBatch
from tests.support.bridges import wait_until
from tests.support.pipelines import Bench, message


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
