"""Histograms, sequence numbers, schedules: what the numbers of a bench are made of."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqttkit.bench.histogram import QUANTILES, LatencyHistogram
from mqttkit.bench.plan import HEADER, Plan, padding_for, stamp
from mqttkit.bench.publishing import due_messages
from mqttkit.bench.receiving import MessageReceiver
from mqttkit.bench.sequence import Sequence
from mqttkit.messages import Message


@given(st.lists(st.integers(0, 10**12), min_size=1, max_size=200))
def test_quantiles_are_within_a_bucket_of_the_truth(values: list[int]) -> None:
    """Each quantile is that of the sorted values, or at most 1/64 above it; the maximum is exact."""
    histogram = LatencyHistogram()
    histogram.add_all(values)
    ordered = sorted(values)
    for fraction in QUANTILES.values():
        true = ordered[max(math.ceil(fraction * len(values)) - 1, 0)]
        assert true <= histogram.quantile(fraction) <= true + true / 64
    assert histogram.maximum == max(values)


@given(st.lists(st.integers(-5, 10**9)), st.lists(st.integers(-5, 10**9)))
def test_merged_histograms_are_one(first: list[int], second: list[int]) -> None:
    """Merging two gives what one would have counted."""
    one, other, both = LatencyHistogram(), LatencyHistogram(), LatencyHistogram()
    one.add_all(first)
    other.add_all(second)
    both.add_all([*first, *second])
    one.merge(other)
    assert (one.counts, one.total, one.maximum) == (both.counts, both.total, both.maximum)


def test_an_empty_histogram_has_no_latencies() -> None:
    """No message, no number."""
    assert LatencyHistogram().summary() == {}
    assert LatencyHistogram().quantile(0.5) == 0


@given(st.lists(st.integers(0, 30), max_size=60), st.integers(0, 30))
def test_every_number_is_received_lost_or_repeated(numbers: list[int], more: int) -> None:
    """What came once, twice, late or never is counted as that, whatever the order."""
    sequence = Sequence()
    highest, late, seen = -1, 0, set()
    for number in numbers:
        late += number < highest and number not in seen
        highest = max(highest, number)
        seen.add(number)
        sequence.add(number)
    published = highest + 1 + more
    assert sequence.received == len(numbers)
    assert sequence.duplicated == len(numbers) - len(seen)
    assert sequence.reordered == late
    assert sequence.lost(published) == published - len(seen)


def test_a_fixed_rate_has_a_time_for_each_message() -> None:
    """What is due grows with the clock alone, never with what was sent, and ends with the plan."""
    plan = Plan(scenario="pub", topic="t", rate=1_000, duration=2)
    assert [due_messages(plan, 0, elapsed) for elapsed in (0.0, 0.0105, 1.0, 5.0)] == [1, 11, 1001, 2001]
    assert due_messages(Plan(scenario="pub", topic="t", rate=10, count=3), 0, 9.0) == 3
    assert due_messages(Plan(scenario="pub", topic="t", count=100), 90, 0.0) == 100


def test_plan_is_over_by_count_or_by_time() -> None:
    """A count rules where it is given."""
    assert Plan(scenario="pub", topic="t", count=2).over(2, 0.0)
    assert not Plan(scenario="pub", topic="t", count=2).over(1, 99.0)
    assert Plan(scenario="pub", topic="t", duration=2).over(0, 2.0)


@pytest.mark.parametrize(
    ("fields", "sent", "received", "share"),
    [
        ({"count": 100}, 30, 0, 0.3),
        ({"count": 100, "subscribers": 1}, 30, 20, 0.3),
        ({"count": 100, "subscribers": 10}, 0, 500, 0.5),
        ({"count": 100, "subscribers": 10, "layout": "pairs"}, 0, 50, 0.5),
        ({"count": 100, "subscribers": 10, "layout": "shared"}, 0, 50, 0.5),
        ({"duration": 40.0, "subscribers": 10}, 0, 5_000, 0.25),
        ({"duration": 5.0}, 0, 0, 1.0),
    ],
)
def test_a_run_knows_how_much_of_it_is_done(fields: dict[str, Any], sent: int, received: int, share: float) -> None:
    """Each subscriber of a fan-out receives every message; after 10 seconds here."""
    assert Plan(scenario="x", topic="t", **fields).done(10.0, sent, received) == share


def test_payloads_have_the_size_asked_for() -> None:
    """Header and padding together; a payload without room for a header has none."""
    assert len(stamp(1, 2, padding_for(100))) == 100
    assert len(stamp(1, 2, padding_for(HEADER.size))) == HEADER.size == 16
    assert [len(padding_for(size)) for size in (0, 5, 15)] == [0, 5, 15]
    assert [Plan(scenario="sub", topic="t", size=size).numbered for size in (0, 15, 16)] == [False, False, True]


def test_receiver_counts_from_the_intended_time() -> None:
    """Latency is arrival less the time in the message; intervals give the course over time."""
    now = [1_000_000_000]
    plan = Plan(scenario="sub", topic="t", publishers=2, subscribers=1, interval=0.1)
    receiver = MessageReceiver(plan, clock=lambda: now[0])
    receiver.receive(0, [Message("t/0", stamp(0, 999_000_000, b"")), Message("t/1", stamp(0, 998_000_000, b""))])
    now[0] += 200_000_000
    receiver.receive(0, [Message("t/0", stamp(1, 1_197_000_000, b"xx"))])
    assert (receiver.received, receiver.latencies.maximum, receiver.bytes) == (3, 3_000_000, 50)
    (point,) = receiver.as_points()
    assert (point["seconds"], point["rate"], point["max"]) == (0.2, 15.0, 3.0)
    assert receiver.lost({0: 2, 1: 2}) == 1
