"""Figures of the developers' benchmarks: goals, the table, and the page that it is written into."""

from __future__ import annotations

from pathlib import Path

import pytest

from mqttkit.errors import UsageError
from tests.benchmarks.figures import Figure, as_table, at_least, at_most, write_section

PAGE = "before\n<!-- peers: begin -->\n{}\n<!-- peers: end -->\nafter\n"


@pytest.mark.parametrize(("value", "small_enough", "large_enough"), [(9.99, True, False), (10.0, False, True)])
def test_a_goal_is_met_or_missed(value: float, small_enough: bool, large_enough: bool) -> None:
    """`at_most` excludes its goal and `at_least` includes it; the line shows the verdict."""
    small, large = at_most("a", value, "s", 10), at_least("a", value, "s", 10)
    assert (small.met, large.met) == (small_enough, large_enough)
    assert ("MISSED" in str(small), "MISSED" in str(large)) == (not small_enough, not large_enough)


def test_a_figure_without_a_goal_is_not_judged() -> None:
    """Its line has the number, the unit and the detail."""
    assert str(Figure("a", 1234.0, "ms", detail="why")) == "a: 1,234 ms  why"


def test_table_has_a_row_for_each_figure() -> None:
    """Name, value with its unit, goal."""
    assert as_table([at_most("a", 2.5, "ms", 1_000)]).splitlines()[2:] == ["| a | 2.5 ms | under 1,000 |"]


def test_page_changes_between_its_marks_only(tmp_path: Path) -> None:
    """The rest of the page stays; a page without marks is an error and stays as it is."""
    page = tmp_path / "p.md"
    page.write_text(PAGE.format("old"))
    write_section(page, "peers", "new")
    assert page.read_text() == PAGE.format("new")
    page.write_text("no marks")
    with pytest.raises(UsageError, match="has no section <!-- peers: begin -->"):
        write_section(page, "peers", "new")
    assert page.read_text() == "no marks"
