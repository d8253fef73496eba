"""Parse, commit, acknowledge: the pipeline without a connection."""

from __future__ import annotations

import hashlib
import threading
import time
from pathlib import Path

import pytest

from mqttkit.bridge.metric import MetricRefusal
from mqttkit.bridge.sinks.types import Committed, MetricBatch
from mqttkit.errors import SinkBroken, SinkRefused, SinkUnavailable
from tests.support.bridges import wait_until
from tests.support.pipelines import OTHER, TENANT, Bench, message


@pytest.fixture
def bench(tmp_path: Path) -> object:
    made = Bench(tmp_path)
    yield made
    made.sink.close()


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
    assert bench.pipeline.books.reasons == {MetricRefusal.SINK_REFUSED: 1, MetricRefusal.JSON_SYNTAX: 1}


def test_fault_21_exception_in_a_handler(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    """An exception nobody expected, in parser or sink: logged, counted, dead-lettered; the stream goes on."""
    bench.sink.errors = [ZeroDivisionError("in the sink")]
    bench.offer(message(1))
    assert bench.pipeline.step(0)
    bench.pipeline._parser.parse = lambda *_, **__: 1 / 0  # type: ignore[assignment,return-value,method-assign]
    bench.offer(message(2))
    assert bench.pipeline.step(0)
    assert bench.pipeline.books.reasons == {MetricRefusal.HANDLER_ERROR: 2}
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
    assert not bench.offer(*(message(number) for number in range(10, 14)))
    assert bench.offer(message(1, b"x" * 500))
    assert not bench.offer(message(2, b"y" * 10))
    assert bench.pipeline.step(0)
    assert bench.offer(message(3), message(4), message(5, qos=0))
    assert not bench.offer(message(6), message(7, qos=0))
    books = bench.pipeline.books
    assert (books.overflows, books.turned_away, books.lost_qos0) == (1, 7, 1), "a paused broker sends no more"
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
    thread.join(60)
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
    assert done.wait(60)
    bench.pipeline.intake.drain()
    thread.join(60)
    assert bench.pipeline.books.retries == 1


def test_lone_message_does_not_wait_for_company(tmp_path: Path) -> None:
    """Without load a message is committed immediately: the batching window does not apply."""
    bench = Bench(tmp_path, batch_window=600.0)
    bench.offer(message(1))
    began = time.monotonic()
    assert bench.pipeline.step(0)
    assert time.monotonic() - began < 60
    bench.sink.close()


def test_own_and_empty_messages_are_acknowledged_in_their_turn(bench: Bench) -> None:
    """A canary and a message that clears a retained one need no commit, are no dead letters, and keep their place."""
    own = message(2)._replace(topic="metrics/_mqttkit/canary/x")
    bench.offer(message(1), own, message(3, b""), message(4)._replace(topic="metrics//x", payload=b""), message(5))
    assert bench.pipeline.step(0)
    assert bench.acknowledged == [1, 2, 3, 4, 5]
    bench.check(stored=2)
    assert (bench.pipeline.books.put_aside, bench.pipeline.books.acknowledged, bench.pipeline.books.stale) == (3, 2, 0)
    bench.offer(own)
    assert bench.pipeline.step(0)
    assert len(bench.sink.batches) == 1
    bench.check(stored=2)


def test_letters_above_the_quota_are_counted_and_not_stored(tmp_path: Path) -> None:
    """The message is acknowledged and in the books; other tenants' letters are stored."""
    bench = Bench(tmp_path, letter_quota=1, drop_letters=True)
    bench.sink.poison = 4.0
    bench.offer(message(1, b"{"), message(2, b"{"), message(3), message(4), message(5, b"{", tenant=OTHER))
    assert bench.pipeline.step(0)
    bench.check(stored=1, dead=4)
    assert bench.sink.letters.count() == 2
    assert bench.pipeline.letter_quota.dropped == 2
    assert bench.acknowledged == [1, 2, 3, 4, 5]
    bench.sink.close()


def test_delay_from_reception_to_commit_is_measured(bench: Bench) -> None:
    """Each message counts once, also those that a batch leaves in the queue and those that a reconnect drops."""
    bench.offer(*(message(number) for number in range(600)))
    bench.offer(message(600))
    assert bench.pipeline.step(0)
    assert bench.pipeline.delay.buckets()[0][-1] == ("+Inf", 500)
    bench.pipeline.intake.reconnected(2, session_present=True)
    bench.offer(*(message(number)._replace(epoch=2) for number in range(500, 601)))
    assert bench.pipeline.step(0)
    assert bench.pipeline.delay.buckets()[0][-1] == ("+Inf", 601)
    assert bench.pipeline.commit_duration.buckets()[0][-1] == ("+Inf", 2)


def _always_down(batch: MetricBatch) -> Committed:
    raise SinkUnavailable("down")


class Clock:
    """A monotonic clock that moves only when told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1_000.0
        monkeypatch.setattr("mqttkit.bridge.flow.pipeline.time.monotonic", lambda: self.now)


def test_commit_is_tried_again_after_longer_and_longer_waits(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """0.1 s, doubled up to 5 s; each attempt counts as progress; each cause is logged once."""
    waits: list[float] = []
    monkeypatch.setattr(bench.pipeline.intake, "wait_stopped", waits.append)
    bench.sink.errors = [SinkUnavailable("second"), *(SinkUnavailable("first") for _ in range(8))]
    bench.offer(message(1))
    assert bench.pipeline.progress == 0
    assert bench.pipeline.step(0) is True
    assert waits == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0, 5.0]
    assert bench.pipeline.progress == 1 + len(waits)
    assert caplog.text.count("until this is fixed: first") == caplog.text.count("until this is fixed: second") == 1
    assert "the sink commits again; it failed with: second" in caplog.text


def test_step_without_a_commit_says_so(bench: Bench) -> None:
    """No message, a stop while the registry fails, a stop while the sink fails: False, and nothing is counted."""
    assert bench.pipeline.step(0) is False
    assert bench.pipeline.progress == 1
    bench.registry.failures = 1
    bench.offer(message(1))
    bench.pipeline.intake.wait_stopped = lambda _seconds: True  # type: ignore[method-assign]
    assert bench.pipeline.step(0) is False
    bench.check(waiting=1)
    bench.sink.errors = [SinkUnavailable("down")]
    bench.offer(message(2))
    assert bench.pipeline.step(0) is False
    bench.check(waiting=2)
    assert (bench.acknowledged, bench.pipeline.books.acknowledged, bench.pipeline.books.stale) == ([], 0, 0)


def test_acknowledgement_that_was_not_sent_is_stale(bench: Bench) -> None:
    """Only messages above QoS 0 can be stale: their connection had ended."""
    bench.pipeline._acknowledge = lambda _messages: 1  # type: ignore[method-assign]
    bench.offer(message(1), message(2, qos=2), message(3, qos=0), message(4, qos=0), message(5))
    assert bench.pipeline.step(0)
    assert (bench.pipeline.books.acknowledged, bench.pipeline.books.stale) == (1, 2)


def test_skew_is_that_of_the_newest_metric(bench: Bench) -> None:
    """Time of receipt minus time stamp; 0 before the first metric."""
    assert bench.pipeline.skew_ms == 0
    bench.pipeline._now_ms = lambda: 5_000
    bench.offer(message(1, b'{"value":1,"timestamp":1}'), message(2, b'{"value":1,"timestamp":3}'))
    assert bench.pipeline.step(0)
    assert bench.pipeline.skew_ms == 2_000


def test_time_of_receipt_is_the_clock_of_this_machine(bench: Bench) -> None:
    """Milliseconds since 1970."""
    bench.offer(message(1))
    assert bench.pipeline.step(0)
    assert abs(bench.sink.batches[0].metrics[0].received_ms - time.time() * 1_000) < 60_000


def test_commit_time_is_measured(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the time of commits that succeed."""
    clock = Clock(monkeypatch)
    commit = bench.sink.commit

    def slow(batch: MetricBatch) -> Committed:
        clock.now += 2
        return commit(batch)

    bench.sink.commit = slow  # type: ignore[method-assign]
    for number in range(3):
        bench.offer(message(number))
        assert bench.pipeline.step(0)
    assert bench.pipeline.books.commit_seconds == 6


def test_refused_batch_of_one_metric_and_one_letter_is_split(bench: Bench) -> None:
    """Neither the metric nor the dead letter gets lost."""
    bench.sink.errors = [SinkRefused("together")]
    bench.offer(message(1), message(2, b"["))
    assert bench.pipeline.step(0)
    bench.check(stored=1, dead=1)


def test_retained_message_gets_an_id_of_its_topic_and_content(bench: Bench) -> None:
    """40 characters of SHA-256; a live message gets none."""
    body = b'{"value":1}'
    bench.offer(message(1, body, retain=True), message(2, body))
    assert bench.pipeline.step(0)
    digest = hashlib.sha256(f"metrics/{TENANT}/a/t".encode() + b"\0" + body).hexdigest()
    assert [metric.dedupe_id for metric in bench.sink.batches[0].metrics] == [f"retained:{digest[:40]}", None]
    assert bench.sink.batches[0].contents == dict.fromkeys((0, 1), f"retained:{digest[:40]}")


def test_retained_message_that_came_live_is_a_duplicate(bench: Bench) -> None:
    """A new subscription brings it again; the identity follows the messages through the halves of a split batch."""
    live = [message(number, b'{"value":%d}' % number) for number in (1, 2, 2)]
    bench.sink.errors = [SinkRefused("together")]
    bench.offer(message(9), *live)
    assert bench.pipeline.step(0)
    bench.offer(message(4, live[-1].payload, retain=True), message(5, live[0].payload, retain=True))
    assert bench.pipeline.step(0)
    bench.check(stored=5, duplicate=1)


def test_contents_are_not_kept_if_retained_messages_never_return(tmp_path: Path) -> None:
    """Members of a group get no retained messages, so the sink need not remember anything."""
    bench = Bench(tmp_path, retained_return=False)
    bench.offer(message(1, b'{"value":1}'))
    assert bench.pipeline.step(0)
    assert bench.sink.batches[0].contents == {}
    bench.sink.close()


@pytest.mark.parametrize("busy", [False, True])
def test_only_an_idle_sink_is_probed(bench: Bench, monkeypatch: pytest.MonkeyPatch, busy: bool) -> None:
    """At the start, and after more than 5 s without a batch; an idle iteration lasts 0.5 s."""
    clock = Clock(monkeypatch)
    start = clock.now
    probes: list[float] = []

    def step(timeout: float) -> bool:
        assert timeout == 0.5
        clock.now += timeout
        if clock.now - start >= 20:
            bench.pipeline.intake.drain()
            return False
        return busy

    bench.pipeline.step = step  # type: ignore[method-assign]
    bench.sink.probe = lambda: probes.append(clock.now - start)  # type: ignore[method-assign]
    bench.pipeline.run()
    assert probes == ([0] if busy else [0, 5.5, 11, 16.5])


def test_drain_ends_only_when_the_queue_is_empty(bench: Bench) -> None:
    """Every queued batch is committed before `run` returns."""
    small = bench.pipeline.intake._limits.batch_size
    bench.offer(*(message(number) for number in range(small * 2 + 1)))
    bench.pipeline.intake.drain()
    bench.pipeline.run(beat=0.01)
    bench.check(stored=small * 2 + 1)
