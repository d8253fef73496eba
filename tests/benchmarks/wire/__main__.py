"""Measure the client against bare peers and print the table: `python -m tests.benchmarks.wire`."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from tests.benchmarks.figures import say, say_progress, write_section
from tests.benchmarks.wire.programs import WireBench
from tests.benchmarks.wire.rounds import ROUNDS, SIZE, figures, measure, report


def main() -> int:
    """Measure, print the table, and write it into a page if asked; return 1 if a goal is missed."""
    parser = argparse.ArgumentParser(prog="tests.benchmarks.wire", description="Measure the client against bare peers.")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="write the table into this page")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--share", type=float, default=1.0, help="share of the full number of messages, for a trial")
    options = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as directory:
        runs = measure(WireBench(Path(directory), SIZE), options.rounds, options.share, say_progress)
    text = report(runs, size=SIZE)
    say(text)
    say_progress(f"{time.monotonic() - began:.0f} s")
    if options.write is not None:
        write_section(options.write, "wire", text)
    return int(not all(figure.met for figure in figures(runs)))


if __name__ == "__main__":
    sys.exit(main())
