"""The bridge's figures as a table, and the machine they were measured on."""

from __future__ import annotations

import os
import platform
import sqlite3
import subprocess
from dataclasses import dataclass
from pathlib import Path

from mqttkit.errors import MqttkitError
from tests.benchmarks.bridge_setup import need

BEGIN, END = "<!-- bridge: begin -->", "<!-- bridge: end -->"
"""Where the table stands in docs/performance.md."""


@dataclass(frozen=True)
class Figure:
    """One line of the table."""

    name: str
    value: float
    unit: str
    goal: str
    """What it should be, for readers."""


def machine() -> str:
    """Return what the figures were measured on."""
    cpu = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.machine(),
    )
    mosquitto = subprocess.run([need("mosquitto"), "-h"], capture_output=True, text=True, check=False).stdout
    redis = subprocess.run([need("redis-server"), "--version"], capture_output=True, text=True, check=False).stdout
    python = platform.python_version()
    return (
        f"{os.cpu_count()} cores of {cpu}; Python {python}; {mosquitto.split(chr(10))[0]};"
        f" Redis {redis.split('v=')[1].split()[0]}; SQLite {sqlite3.sqlite_version}"
    )


def table(figures: list[Figure]) -> str:
    """Return the figures as a Markdown table."""
    lines = ["| what | measured | goal |", "| --- | --- | --- |"]
    for figure in figures:
        value = f"{figure.value:,.0f}" if figure.value >= 100 else f"{figure.value:.1f}"
        lines.append(f"| {figure.name} | {value} {figure.unit} | {figure.goal} |")
    return "\n".join(lines)


def write_report(page: Path, report: str) -> None:
    """Put the report between the page's marks; raise MqttkitError where it has none."""
    text = page.read_text("utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise MqttkitError(f"{page} has no {BEGIN} … {END}")
    page.write_text(f"{before}{begin}\n{report}\n{end}{after}", "utf-8")
