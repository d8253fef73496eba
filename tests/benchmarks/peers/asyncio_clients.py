"""`make bench-aio`: mqttkit.aio against aiomqtt, in alternating rounds on one mosquitto."""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

from mqttkit.bench.own_broker import own_broker
from tests.benchmarks.peers.rounds import SIZE
from tests.benchmarks.peers.runners import Bench, Measured

COUNTS = {
    ("pub", 0): {"mqttkit_aio": 100_000, "aiomqtt": 20_000},
    ("pub", 1): {"mqttkit_aio": 60_000, "aiomqtt": 8_000},
    ("sub", 0): {"mqttkit_aio": 200_000, "aiomqtt": 60_000},
    ("sub", 1): {"mqttkit_aio": 100_000, "aiomqtt": 30_000},
}
"""Messages per scenario: one or two seconds of work for each client."""


def main() -> None:
    """Measure, and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--python", required=True, help="interpreter that has aiomqtt")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--share", type=float, default=1.0, help="share of the messages, for a slow machine")
    options = parser.parse_args()
    found: dict[tuple[str, int, str], list[Measured]] = {}
    with own_broker() as broker, tempfile.TemporaryDirectory() as directory:
        bench = Bench(options.python, broker, Path(directory), SIZE)
        for number in range(options.rounds):
            for (role, qos), counts in COUNTS.items():
                for client in sorted(counts, reverse=bool(number % 2)):
                    measured = bench.job(client, role, qos, int(counts[client] * options.share))()
                    rate = measured.count / measured.seconds
                    print(f"round {number + 1}: {role} QoS {qos} {client}: {rate:,.0f}/s", file=sys.stderr, flush=True)
                    found.setdefault((role, qos, client), []).append(measured)
    print(f"{SIZE} bytes, median of {options.rounds} alternating rounds")
    for (role, qos, client), runs in found.items():
        rate = statistics.median(run.count / run.seconds for run in runs)
        cpu = statistics.median(run.cpu / run.count * 1e6 for run in runs)
        print(f"{role} QoS {qos}  {client:12}  {rate:9,.0f} messages/s  {cpu:6.1f} µs of CPU each")


if __name__ == "__main__":
    main()
