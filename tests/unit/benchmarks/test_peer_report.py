"""The table of `make bench-peers`."""

from __future__ import annotations

from tests.benchmarks.peers.report import CLIENTS, GOALS, HEADINGS, report
from tests.benchmarks.peers.rounds import Median, _median
from tests.benchmarks.peers.runners import Measured


def medians(ours: float) -> dict[tuple[str, str], Median]:
    """Return medians in which mqttkit is `ours` times as good as every other client."""
    scenarios = [*HEADINGS, "pub -l", "sub -C", "sub --json"]
    found = {}
    for client in CLIENTS:
        good = ours if client == "mqttkit" else 1.0
        for scenario in scenarios:
            found[client, scenario] = Median(1000 * good, 1 / good, 10 / good, 10 / good, 5)
    return found


def test_goals_are_judged_by_ratios() -> None:
    """Ten times as good reaches every goal, a tenth none; a goal without a measurement is not judged."""
    assert all("| yes |" in goal.line(medians(10.0)) for goal in GOALS)
    assert all("| **no** |" in goal.line(medians(0.1)) for goal in GOALS)
    assert all("not measured" in goal.line({}) for goal in GOALS)


def test_table_has_a_dash_for_a_client_that_failed() -> None:
    """And a number for each other client."""
    found = medians(2.0)
    del found["amqtt", "sub 1"]
    text = report(found, {"gmqtt": "0.8"}, rounds=5, size=283)
    assert "gmqtt 0.8" in text
    assert "| **mqttkit** | 2,000; 0.50; 5 |" in text
    assert text.count("| - |") == 1


def test_median_is_that_of_the_rounds() -> None:
    """Rate, CPU seconds per 100,000 messages, MiB."""
    rounds = [Measured(1000, seconds, 0.5, 1 << 20) for seconds in (1.0, 2.0, 10.0)]
    assert _median(rounds) == Median(rate=500.0, cpu=50.0, memory=1.0, seconds=2.0, rounds=3)
