"""Measure the bridge and print the figures: `python -m tests.benchmarks.bridge`, `make bench-bridge`."""

from __future__ import annotations

import argparse
import platform
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from mqttkit.bench.machine import describe_machine
from tests.benchmarks.bridge.measurements import flat_memory, latency, outage, redis_rate, sqlite_rate, trimmed
from tests.benchmarks.bridge.setup import Setup, need
from tests.benchmarks.figures import Figure, as_table, at_most, say, say_progress, write_section


def measure(count: int, memory_count: int, outage_seconds: float, trim_seconds: float) -> Iterator[Figure]:
    """Measure and yield one figure after the other."""
    with tempfile.TemporaryDirectory(prefix="mqttkit-bench-") as directory, Setup(Path(directory)) as setup:
        yield from redis_rate(setup, count)
        yield from sqlite_rate(setup, count)
        median, tail = latency(setup, 5_000, 10)
        yield Figure("publish to stored at 5,000/s, median", median, "ms")
        yield at_most("publish to stored at 5,000/s, 99th percentile", tail, "ms", 100)
        median, tail = latency(setup, 20, 10)
        yield at_most("publish to stored when idle (20/s), median", median, "ms", 10)
        yield Figure("publish to stored when idle (20/s), 99th percentile", tail, "ms")
        if trim_seconds:
            yield from trimmed(setup, 6_000, trim_seconds)
        if outage_seconds:
            yield outage(setup, 5_000, outage_seconds)
        if memory_count:
            yield from flat_memory(setup, memory_count)


def describe_servers() -> str:
    """Return the machine and the versions of Python, mosquitto, Redis and SQLite in one line."""
    mosquitto = subprocess.run([need("mosquitto"), "-h"], capture_output=True, text=True, check=False).stdout
    redis = subprocess.run([need("redis-server"), "--version"], capture_output=True, text=True, check=False).stdout
    return (
        f"{describe_machine()}; Python {platform.python_version()}; {mosquitto.splitlines()[0]};"
        f" Redis {redis.split('v=')[1].split()[0]}; SQLite {sqlite3.sqlite_version}"
    )


def main() -> int:
    """Measure and print the table; return 1 if a goal is missed."""
    parser = argparse.ArgumentParser(prog="tests.benchmarks.bridge", description="Measure the bridge.")
    parser.add_argument("--count", type=int, default=300_000, help="metrics for the throughput figures")
    parser.add_argument("--memory-count", type=int, default=10_000_000, help="metrics for flat memory; 0 skips it")
    parser.add_argument("--outage", type=float, default=60.0, help="seconds without a sink; 0 skips it")
    parser.add_argument("--trim", type=float, default=120.0, help="seconds of ingest beside a worker; 0 skips it")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="write the table into this page")
    options = parser.parse_args()
    figures = []
    for figure in measure(options.count, options.memory_count, options.outage, options.trim):
        figures.append(figure)
        say_progress(str(figure))
    report = f"{describe_servers()}\n\n{as_table(figures)}"
    say(report)
    if options.write is not None:
        write_section(options.write, "bridge", report)
    return 1 if any(figure.met is False for figure in figures) else 0


if __name__ == "__main__":
    sys.exit(main())
