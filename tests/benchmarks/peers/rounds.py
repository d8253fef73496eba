"""The rounds of `make bench-peers`: every client once per round, in alternating order, and the medians.

All rounds use one mosquitto. Each measurement runs in its own process.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mqttkit.errors import MqttkitError
from tests.benchmarks.peers.runners import Bench, Measured

SIZE = 283
ROUNDS = 5
BUDGET_SECONDS = 560.0
"""No round starts if it would end later. A busy machine gets fewer rounds; the table shows how many."""
LIBRARIES = ("mqttkit", "paho", "aiomqtt", "gmqtt", "amqtt")
WIDE = ("paho wide", "pub 1", 20_000)
"""paho with the window that mqttkit uses, which is not its default: client, scenario, messages."""
SCENARIOS = ("pub 0", "pub 1", "sub 0", "sub 1")
COUNTS = {
    "mqttkit": (500_000, 150_000, 300_000, 100_000),
    "mosquitto": (500_000, 150_000, 300_000, 100_000),
    "gmqtt": (150_000, 25_000, 200_000, 50_000),
    "paho": (100_000, 30_000, 100_000, 30_000),
    "aiomqtt": (20_000, 8_000, 40_000, 15_000),
    "amqtt": (5_000, 3_000, 5_000, 3_000),
}
"""Messages per scenario: one or two seconds of work for each client."""
LINES = 1_000_000
"""Messages per command; the time includes the start of the process."""


@dataclass(frozen=True)
class Median:
    """The medians of the rounds."""

    rate: float
    """Messages a second."""
    cpu: float
    """CPU seconds per 100,000 messages."""
    memory: float
    """Peak resident memory, MiB."""
    seconds: float
    rounds: int


Run = tuple[str, str, Callable[[], Measured]]
"""Client, scenario, and the function that measures it."""


def measure(bench: Bench, rounds: int, share: float, say: Callable[[str], None]) -> dict[tuple[str, str], Median]:
    """Run all measurements in rounds, every other round in reverse order; return the medians."""
    found: dict[tuple[str, str], list[Measured]] = {}
    began = time.monotonic()
    for number in range(rounds):
        if number and (time.monotonic() - began) * (number + 1) / number > BUDGET_SECONDS:
            say(f"stopped after {number} rounds: the next one would end after {BUDGET_SECONDS:g} s")
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
    """Return the measurements of a round, with `share` of the full number of messages."""
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
