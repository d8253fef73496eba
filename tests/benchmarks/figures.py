"""One measured figure, the goal it is compared with, and tables of figures."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from mqttkit.bench.report.result import show
from mqttkit.errors import UsageError


@dataclass(frozen=True)
class Figure:
    """One measured number."""

    name: str
    value: float
    unit: str
    goal: str = ""
    """The goal as text; empty if there is none."""
    met: bool | None = None
    """Whether the goal is met; None if there is none."""
    detail: str = ""

    def __str__(self) -> str:
        verdict = "" if self.met is None else f"  ({self.goal}: {'met' if self.met else 'MISSED'})"
        return f"{self.name}: {show(self.value)} {self.unit}{verdict}" + (f"  {self.detail}" if self.detail else "")


def at_most(name: str, value: float, unit: str, goal: float, detail: str = "") -> Figure:
    """Return a figure that should stay below its goal."""
    return Figure(name, round(value, 2), unit, f"under {goal:,g}", value < goal, detail)


def at_least(name: str, value: float, unit: str, goal: float, detail: str = "") -> Figure:
    """Return a figure that should reach its goal."""
    return Figure(name, round(value, 2), unit, f"at least {goal:,g}", value >= goal, detail)


def as_table(figures: Iterable[Figure]) -> str:
    """Return the figures as a Markdown table."""
    rows = [f"| {figure.name} | {show(figure.value)} {figure.unit} | {figure.goal} |" for figure in figures]
    return "\n".join(["| figure | measured | goal |", "| --- | --- | --- |", *rows])


def write_section(page: Path, name: str, text: str) -> None:
    """Replace the text between the page's two `<!-- NAME: … -->` marks; raise UsageError if they are missing."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before, found_begin, rest = page.read_text("utf-8").partition(begin)
    _, found_end, after = rest.partition(end)
    if not found_begin or not found_end:
        raise UsageError(f"{page} has no section {begin} … {end}")
    page.write_text(f"{before}{begin}\n{text}\n{end}{after}", "utf-8")


def say(text: str) -> None:
    """Write a line to stdout now, even into a pipe."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def say_progress(text: str) -> None:
    """Write a line to stderr now."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()
