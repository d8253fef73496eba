"""Compare mqttkit with other clients and print the table: `python -m tests.benchmarks.peers`."""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from mqttkit.bench.own_broker import own_broker
from tests.benchmarks.figures import say, say_progress, write_section
from tests.benchmarks.peers.report import report
from tests.benchmarks.peers.rounds import LIBRARIES, ROUNDS, SIZE, measure
from tests.benchmarks.peers.runners import Bench


def main() -> None:
    """Measure, print the table, and write it into a page if asked."""
    parser = argparse.ArgumentParser(prog="tests.benchmarks.peers", description="Compare mqttkit with other clients.")
    parser.add_argument("--python", required=True, help="Python of the environment with the other clients")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="write the table into this page")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--share", type=float, default=1.0, help="share of the full number of messages, for a trial")
    options = parser.parse_args()
    began = time.monotonic()
    with own_broker("sys_interval 1") as broker, tempfile.TemporaryDirectory() as directory:
        bench = Bench(options.python, broker, Path(directory), SIZE)
        medians = measure(bench, options.rounds, options.share, say_progress)
        rounds = max((median.rounds for median in medians.values()), default=0)
        text = report(medians, bench.versions(LIBRARIES), rounds=rounds, size=SIZE)
    say(text)
    say_progress(f"{time.monotonic() - began:.0f} s")
    if options.write is not None:
        write_section(options.write, "peers", text)


if __name__ == "__main__":
    main()
