"""The table of bench-peers: goals judged by ratios, the page changed only between its marks."""

from __future__ import annotations

from pathlib import Path

import pytest

from mqttkit.errors import UsageError
from tests.benchmarks.peer_commands import Measured
from tests.benchmarks.peer_report import BEGIN, CLIENTS, END, GOALS, HEADINGS, report, write_into
from tests.benchmarks.peers import Median, _median


def medians(ours: float) -> dict[tuple[str, str], Median]:
    """Return numbers where mqttkit is `ours` times as good as everybody."""
    scenarios = [*HEADINGS, "pub -l", "sub -C", "sub --json"]
    found = {}
    for client in CLIENTS:
        good = ours if client == "mqttkit" else 1.0
        for scenario in scenarios:
            found[client, scenario] = Median(1000 * good, 1 / good, 10 / good, 10 / good, 5)
    return found


def test_goals_are_judged_by_ratios() -> None:
    """Ten times as good reaches all, a tenth none, and what was not measured is not claimed."""
    assert all("| yes |" in goal.line(medians(10.0)) for goal in GOALS)
    assert all("| **no** |" in goal.line(medians(0.1)) for goal in GOALS)
    assert all("not measured" in goal.line({}) for goal in GOALS)


def test_table_has_every_client_and_says_what_was_not_measured() -> None:
    """A client that failed has a dash, not a number."""
    found = medians(2.0)
    del found["amqtt", "sub 1"]
    text = report(found, {"gmqtt": "0.8"}, rounds=5, size=283)
    assert "gmqtt 0.8" in text
    assert "| **mqttkit** | 2,000; 0.50; 5 |" in text
    assert text.count("| - |") == 1


def test_median_is_that_of_the_rounds() -> None:
    """Rate, CPU for 100,000 messages, MiB."""
    rounds = [Measured(1000, seconds, 0.5, 1 << 20) for seconds in (1.0, 2.0, 10.0)]
    assert _median(rounds) == Median(rate=500.0, cpu=50.0, memory=1.0, seconds=2.0, rounds=3)


def test_page_changes_between_its_marks_only(tmp_path: Path) -> None:
    """Text around the marks stays; a page without them is refused."""
    page = tmp_path / "p.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    write_into(page, "new")
    assert page.read_text() == f"before\n{BEGIN}\nnew\n{END}\nafter\n"
    page.write_text("no marks")
    with pytest.raises(UsageError):
        write_into(page, "new")
