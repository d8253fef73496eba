"""Metrics of what arrived."""

from __future__ import annotations

from mqttkit.bench.plan import Plan, Sent
from mqttkit.bench.receiving import MessageReceiver
from mqttkit.bench.report.result import BenchResult
from mqttkit.bench.run import _add_received


def test_a_round_trip_from_which_nothing_came_back_has_its_metrics() -> None:
    """It was a KeyError: there is no CPU time per message received."""
    plan = Plan(scenario="roundtrip", topic="bench", subscribers=1)
    result = BenchResult(plan)
    _add_received(
        result,
        Sent(messages=(5,), seconds=1.0, cpu=0.1, outcomes={}, behind=0.0, memory=0),
        [MessageReceiver(plan)],
        0.1,
    )
    assert (result.metrics["received"], result.metrics["lost"]) == (0, 5)
