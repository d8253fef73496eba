"""Metrics of what arrived, and when a run is to be doubted."""

from __future__ import annotations

import pytest

from mqttkit.bench.plan import Plan, Sent, stamp
from mqttkit.bench.receiving import AHEAD_NS, MessageReceiver
from mqttkit.bench.report.result import GENERATOR_LATE, GENERATOR_LIMIT, BenchResult
from mqttkit.bench.run import add_received
from mqttkit.messages import Message


def message(publisher: int, number: int) -> Message:
    """Return a numbered message."""
    return Message(f"t/{publisher}", stamp(number, 0, b""))


def test_a_round_trip_from_which_nothing_came_back_has_its_metrics() -> None:
    """It was a KeyError: there is no CPU time per message received."""
    plan = Plan(scenario="roundtrip", topic="bench", subscribers=1)
    result = BenchResult(plan)
    sent = Sent(messages=(5,), seconds=1.0, cpu=0.1, outcomes={}, behind=0.0, memory=0)
    add_received(result, sent, MessageReceiver(plan), 0.1)
    assert (result.metrics["received"], result.metrics["lost"]) == (0, 5)
    assert result.losses == "5 lost"
    result.metrics.update({"lost": 0, "dropped": 2, "failed": 1})
    assert result.losses == "2 dropped before sending, 1 denied or lost after sending"


@pytest.mark.parametrize(
    ("layout", "lost", "reordered"),
    [
        ("all", 4, 1),  # two subscribers should have all six, and have eight of twelve
        ("pairs", 1, 1),  # subscriber 1 misses the last of publisher 1
        ("shared", 0, 0),  # together they have everything; a shared subscription has no order
    ],
)
def test_what_is_lost_depends_on_who_should_receive(layout: str, lost: int, reordered: int) -> None:
    """Sequence numbers are counted for each subscriber and publisher, or for all subscribers of a group."""
    plan = Plan(scenario="x", topic="t", publishers=2, subscribers=2, layout=layout)
    receiver = MessageReceiver(plan)
    receiver.receive(0, [message(0, 0), message(0, 2), message(0, 1), message(1, 2)])
    receiver.receive(1, [message(1, 0), message(1, 1), message(0, 0), message(0, 1)])
    assert (receiver.lost({0: 3, 1: 3}), receiver.reordered) == (lost, reordered)


@pytest.mark.parametrize(
    ("topic", "payload"),
    [
        ("t/0", b"short"),
        ("t/0", b"text of another publisher"),
        ("t/0", stamp(1 << 60, AHEAD_NS + 2_000, b"")),
        ("t/2", stamp(1, 0, b"")),
        ("t/x", stamp(1, 0, b"")),
    ],
)
def test_messages_of_other_publishers_are_not_counted(topic: str, payload: bytes) -> None:
    """They were a traceback, or filled the memory with numbers that seemed to be missing."""
    receiver = MessageReceiver(Plan(scenario="sub", topic="t", publishers=2, subscribers=1), clock=lambda: 1_000)
    receiver.receive(0, [Message(topic, payload)])
    assert (receiver.received, receiver.foreign, receiver.first) == (0, 1, 0)
    receiver.receive(0, [message(0, 0), Message(topic, payload), message(1, 0)])
    assert (receiver.received, receiver.foreign, receiver.lost({0: 1, 1: 1})) == (2, 2, 0)
    result = BenchResult(Plan(scenario="sub", topic="t"))
    add_received(result, Sent((1, 1), 1.0, 0.1, {}, 0.0), receiver, 0.1)
    assert result.notes == ["2 messages of other publishers arrived and were not counted"]


def test_payloads_without_room_for_a_number_are_counted() -> None:
    """Lost is the difference; there is no latency."""
    plan = Plan(scenario="fan-out", topic="t", subscribers=3, size=0)
    receiver = MessageReceiver(plan)
    receiver.receive(0, [Message("t/0")] * 4)
    receiver.end_interval(receiver.last + 1)
    assert (receiver.received, receiver.lost({0: 2}), receiver.latencies.total) == (4, 2, 0)
    assert receiver.as_points()[0]["p99"] == 0


def test_a_busy_generator_is_named_as_the_limit() -> None:
    """If it used a whole core for a second or more, and was late or had no schedule to keep."""
    for cpu, seconds, flat_out, behind, limit in (
        (9.5, 10.0, True, 0.0, True),
        (9.5, 10.0, False, 0.0, False),
        (9.5, 10.0, False, 200.0, True),
        (5.0, 10.0, True, 200.0, False),
        (0.1, 0.1, True, 0.0, False),
    ):
        result = BenchResult(Plan(scenario="pub", topic="t"))
        result.metrics["behind"] = behind
        result.note_generator(cpu, seconds, flat_out=flat_out)
        result.note_generator(0.0, seconds, flat_out=flat_out)
        assert (GENERATOR_LIMIT in result.notes) is limit
        assert (GENERATOR_LATE in result.notes) is (behind > 0)
        assert result.metrics["generator"] == 100 * cpu / seconds
