"""mqttkit beside other MQTT clients: `python -m tests.benchmarks.peers`, `make bench-peers`.

One run, one mosquitto, rounds in alternating order, medians. Each measurement is a process of its own.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mqttkit.bench.own_broker import own_broker
from mqttkit.errors import MqttkitError
from tests.benchmarks import peer_report
from tests.benchmarks.peer_commands import Bench, Measured

SIZE = 283
ROUNDS = 5
BUDGET_SECONDS = 560.0
"""No round begins that would end later: on a busy machine there are fewer rounds, and the table says how many."""
LIBRARIES = ("mqttkit", "paho", "aiomqtt", "gmqtt", "amqtt")
WIDE = ("paho wide", "pub 1", 20_000)
"""paho with as many publishes under way as mqttkit has, which it does not by itself: client, scenario, messages."""
SCENARIOS = ("pub 0", "pub 1", "sub 0", "sub 1")
COUNTS = {
    "mqttkit": (500_000, 150_000, 300_000, 100_000),
    "mosquitto": (500_000, 150_000, 300_000, 100_000),
    "gmqtt": (150_000, 25_000, 200_000, 50_000),
    "paho": (100_000, 30_000, 100_000, 30_000),
    "aiomqtt": (20_000, 8_000, 40_000, 15_000),
    "amqtt": (5_000, 3_000, 5_000, 3_000),
}
"""Messages of each scenario: a second or two of work for each client."""
LINES = 1_000_000
"""Messages of the commands, process start included."""


@dataclass(frozen=True)
class Median:
    """The medians of the rounds."""

    rate: float
    """Messages a second."""
    cpu: float
    """Seconds for 100,000 messages."""
    memory: float
    """Peak resident memory, MiB."""
    seconds: float
    rounds: int


Run = tuple[str, str, Callable[[], Measured]]
"""Client, scenario, and what measures it."""


def measure(bench: Bench, rounds: int, share: float, say: Callable[[str], None]) -> dict[tuple[str, str], Median]:
    """Run everything in rounds, each in the other direction than the one before; return medians."""
    found: dict[tuple[str, str], list[Measured]] = {}
    began = time.monotonic()
    for number in range(rounds):
        if number and (time.monotonic() - began) * (number + 1) / number > BUDGET_SECONDS:
            say(f"{number} rounds and no more: the next one would end after {BUDGET_SECONDS:g} s")
            break
        runs = list(_runs(bench, share))
        for client, scenario, work in runs if number % 2 == 0 else reversed(runs):
            try:
                measured = work()
            except MqttkitError as error:
                say(f"round {number + 1}: {client} {scenario}: {error}")
                continue
            say(f"round {number + 1}: {client} {scenario}: {measured.count / measured.seconds:,.0f}/s")
            found.setdefault((client, scenario), []).append(measured)
    return {key: _median(each) for key, each in found.items()}


def _runs(bench: Bench, share: float) -> Sequence[Run]:
    """Return each measurement of a round; `share` of the full number of messages."""
    runs: list[Run] = []
    for index, scenario in enumerate(SCENARIOS):
        role, qos = scenario.split()
        for client in (*LIBRARIES, "mosquitto"):
            count = max(int(COUNTS[client][index] * share), 100)
            runs.append((client, scenario, bench.job(client, role, int(qos), count)))
    client, scenario, count = WIDE
    runs.append((client, scenario, bench.job(client, "pub", 1, max(int(count * share), 100))))
    lines = max(int(LINES * share), 100)
    for command in ("mqttkit", "mosquitto"):
        runs.append((command, "pub -l", bench.command_pub(command, lines)))
        runs.append((command, "sub -C", bench.command_sub(command, lines)))
    runs.append(("mqttkit", "sub --json", bench.command_sub("mqttkit", lines, "--json")))
    return runs


def _median(measured: list[Measured]) -> Median:
    return Median(
        rate=statistics.median(each.count / each.seconds for each in measured),
        cpu=statistics.median(each.cpu / each.count * 1e5 for each in measured),
        memory=statistics.median(each.memory for each in measured) / (1024 * 1024),
        seconds=statistics.median(each.seconds for each in measured),
        rounds=len(measured),
    )


def main() -> None:
    """Measure, print the table, and write it into a page where asked."""
    parser = argparse.ArgumentParser(description="Compare mqttkit with other MQTT clients.")
    parser.add_argument("--python", required=True, help="Python of the environment with the other clients")
    parser.add_argument("--write", type=Path, help="page to write the table into")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--share", type=float, default=1.0, help="share of the full number of messages, for a trial")
    options = parser.parse_args()
    began = time.monotonic()
    with own_broker("sys_interval 1") as broker, tempfile.TemporaryDirectory() as directory:
        bench = Bench(options.python, broker, Path(directory), SIZE)
        medians = measure(bench, options.rounds, options.share, _say)
        rounds = max((median.rounds for median in medians.values()), default=0)
        text = peer_report.report(medians, bench.versions(LIBRARIES), rounds=rounds, size=SIZE)
    sys.stdout.write(f"{text}\n")
    _say(f"{time.monotonic() - began:.0f} s")
    if options.write is not None:
        peer_report.write_into(options.write, text)


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    main()
