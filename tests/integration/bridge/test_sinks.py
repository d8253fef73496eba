"""What every sink promises, against real servers: idempotent, atomic, dead letters in the same transaction."""

from __future__ import annotations

import base64
import contextlib
import random
from collections import Counter

import pytest

from mqttkit.bridge.sinks import open_sink
from mqttkit.bridge.sinks.read_back import stored_ids
from mqttkit.bridge.sinks.types import Committed, MetricBatch, SinkOptions
from mqttkit.errors import DeadLettersFull, MqttkitError, SinkUnavailable, UsageError
from mqttkit.settings import BridgeSettings
from tests.support.sinks import LETTER, Case, commit_until_done, metric

SERVERS = ["redis", "list", "postgresql"]
"""Sinks with a server that recognises a batch."""


def test_sink_stores_a_dedupe_id_once(case: Case) -> None:
    """Within a batch, between batches and after a restart; without a dedupe_id every metric is stored."""
    with contextlib.closing(case.open()) as sink:
        batch = MetricBatch([metric(1, "x"), metric(2, "x"), metric(3, "x", agent="b"), metric(4), metric(5)])
        assert sink.commit(batch) == Committed(4, 1)
        assert sink.commit(MetricBatch([metric(6, "x"), metric(7)])) == Committed(1, 1)
    with contextlib.closing(case.open()) as sink:
        assert sink.commit(MetricBatch([metric(8, "x"), metric(9, "y")])) == Committed(1, 1)
        sink.probe()
    assert sorted(case.values()) == [1, 3, 4, 5, 7, 9]
    settings = BridgeSettings(sink=case.address, list="jobs" if case.jobs else None)
    if case.address.startswith("http"):
        with pytest.raises(UsageError, match="read back"):
            stored_ids(settings, "a")
    elif case.address.startswith("victoria"):
        assert sorted(stored_ids(settings, "a")) == ["a-1", "a-4", "a-5", "a-7", "a-9"]
    else:
        assert Counter(stored_ids(settings, "a")) == {"x": 1, "y": 1, **case.without_id}
        assert stored_ids(settings, "b") == ["x"]


def test_sink_stores_metrics_with_one_dedupe_id_by_name(case: Case) -> None:
    """cpu, mem and disk of one message number are three metrics; each is stored once."""
    batch = [metric(number, "x")._replace(metric_name=name) for number, name in enumerate(("cpu", "mem", "disk"))]
    with contextlib.closing(case.open()) as sink:
        assert sink.commit(MetricBatch(batch)) == Committed(3, 0)
        assert sink.commit(MetricBatch(batch)) == Committed(0, 3)
    assert sorted(case.values()) == [0, 1, 2]


def test_sink_knows_a_retained_message_that_it_stored_live(case: Case) -> None:
    """A new subscription brings the last message of a series again; equal live ones and earlier contents are new."""
    one, two = (f"retained:{digit * 40}" for digit in "ab")
    with contextlib.closing(case.open()) as sink:
        live = MetricBatch([metric(1), metric(2, agent="b"), metric(1)], contents={0: one, 1: one, 2: one})
        assert sink.commit(live) == Committed(3, 0)
    with contextlib.closing(case.open()) as sink:
        replayed = [metric(1, one), metric(2, one, "b"), metric(3, one, "c")]
        again = MetricBatch(replayed, contents=dict.fromkeys(range(3), one))
        assert sink.commit(again) == Committed(1, 2)
        assert sink.commit(MetricBatch(again.metrics, contents=again.contents)) == Committed(0, 3)
        changes = [metric(4), metric(4, two), metric(5, one), metric(5, one), metric(5)]
        contents = {0: two, 1: two, 2: one, 3: one, 4: one}
        assert sink.commit(MetricBatch(changes, contents=contents)) == Committed(3, 2)
        assert sink.commit(MetricBatch([metric(6, two)], contents={0: two})) == Committed(1, 0)
    assert sorted(case.values()) == [1, 1, 2, 3, 4, 5, 5, 6]


def test_sink_keeps_dead_letters_in_order(case: Case) -> None:
    """They are stored with the metrics, read page by page, removed by name, and settled by a later batch."""
    with contextlib.closing(case.open()) as sink:
        letters = [LETTER._replace(detail=f"d{number}\n'\"\\") for number in range(5)]
        assert sink.commit(MetricBatch([metric(1)], letters)) == Committed(1, 0)
        store = sink.letters
        assert store.count() == 5
        first = store.read(limit=3)
        rest = store.read(after=first[-1].id, limit=10)
        assert [stored.letter for stored in [*first, *rest]] == letters
        assert store.get(rest[0].id) == rest[0]
        assert store.get("999999") is None
        assert store.get("999999-1") is None
        assert store.remove([first[0].id, first[1].id]) == 2
        assert store.remove([]) == 0
        assert sink.commit(MetricBatch([metric(2)], settles=[first[2].id])) == Committed(1, 0)
        assert [stored.letter for stored in store.read()] == letters[3:]


def test_sink_with_a_full_dead_letter_store_takes_nothing(case: Case) -> None:
    """The whole batch waits, its metrics included; when there is room again it goes through."""
    with contextlib.closing(case.open(dead_letter_limit=2)) as sink:
        sink.commit(MetricBatch([], [LETTER, LETTER]))
        batch = MetricBatch([metric(1, "x"), metric(2)], [LETTER])
        with contextlib.suppress(FileNotFoundError), pytest.raises(DeadLettersFull, match="dead-letters purge"):
            sink.commit(batch)
        assert case.values() == []
        sink.letters.remove([stored.id for stored in sink.letters.read()])
        sink.commit(batch)
        assert sink.letters.count() == 1
    assert sorted(set(case.values())) == [1, 2]


def test_dead_letters_are_bounded_in_bytes(case: Case) -> None:
    """A few large letters fill the store as many small ones do; removing them makes room."""
    body = random.Random(1).randbytes(65_536)  # PostgreSQL would compress a plain one
    large = LETTER._replace(payload=base64.b64encode(body).decode(), size=1_000_000)
    with contextlib.closing(case.open(dead_letter_bytes=1_000_000)) as sink:
        for _ in range(20):
            try:
                sink.commit(MetricBatch([], [large]))
            except DeadLettersFull as error:
                assert "limit, 1,000,000 bytes" in str(error)
                break
        assert 10 <= sink.letters.count() <= 13
        with pytest.raises(DeadLettersFull):
            sink.commit(MetricBatch([metric(1)], [LETTER]))
        sink.letters.remove([stored.id for stored in sink.letters.read()])
        assert sink.commit(MetricBatch([metric(1)], [LETTER])) == Committed(1, 0)


@pytest.mark.parametrize("case", [*SERVERS, "influx", "victoria", "nats"], indirect=True)
def test_sink_out_of_reach_is_unavailable_until_it_is_back(case: Case) -> None:
    """A server that is down is SinkUnavailable; the same sink works again once the server is back."""
    assert case.stop is not None
    assert case.start is not None
    with contextlib.closing(case.open(timeout=2.0)) as sink:
        commit_until_done(sink, MetricBatch([metric(1, "x")]))
        case.stop()
        waiting = MetricBatch([metric(2)])
        try:
            for action in (lambda: sink.commit(waiting), sink.probe):
                with pytest.raises(SinkUnavailable):
                    action()
        finally:
            case.start()
        assert commit_until_done(sink, waiting) == Committed(1, 0)
        sink.probe()
        assert commit_until_done(sink, MetricBatch([metric(3, "x"), metric(4, "y")])) == Committed(1, 1)
    assert sorted(case.values()) == [1, 2, 4]


@pytest.mark.parametrize("case", SERVERS, indirect=True)
def test_batch_whose_answer_was_lost_is_not_done_twice(case: Case) -> None:
    """A server-side sink knows the batch by its id, metrics without dedupe_id and dead letters included."""
    with contextlib.closing(case.open()) as sink:
        batch = MetricBatch([metric(1), metric(2, "x"), metric(3, "x")], [LETTER])
        assert sink.commit(batch) == Committed(2, 1)
        assert sink.commit(batch) == Committed(2, 1)
        assert sink.letters.count() == 1
    assert len(case.values()) == 2


@pytest.mark.parametrize(
    "address",
    [
        "redis://127.0.0.1:x",
        "redis+sentinel://127.0.0.1",
        "http://",
        "http://u:p@h/",
        "influx://h",
        "influx://h/?org=o",
        "victoria://h?x=1",
    ],
)
def test_address_that_cannot_work_is_an_error_of_usage(address: str) -> None:
    """It is found before anything is opened."""
    with pytest.raises(MqttkitError) as caught:
        open_sink(address, SinkOptions())
    assert caught.value.exit_code == 2
