"""The rounds of `make bench-wire`, their medians, and the table of the page."""

from __future__ import annotations

import datetime
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from mqttkit import __version__
from mqttkit.bench.machine import describe_machine
from tests.benchmarks.figures import Figure, at_most
from tests.benchmarks.peers.runners import Measured
from tests.benchmarks.wire.programs import WireBench

SIZE = 283
ROUNDS = 5
MESSAGES, ACKNOWLEDGED = 1_000_000, 200_000
BUDGET_SECONDS = 240.0
"""No round starts if it would end later."""
ROWS = {
    "pub mqttkit": "`mqttkit pub -q 0 -l < file`",
    "pub mosquitto": "`mosquitto_pub -q 0 -l < file`",
    "pub 1 mqttkit": "`mqttkit pub -q 1 -l < file`, acknowledged",
    "pub 1 mosquitto": "`mosquitto_pub -q 1 -l < file`, acknowledged",
    "sub mqttkit": "`mqttkit sub -C N > file`",
    "sub mosquitto": "`mosquitto_sub -C N > file`",
    "sub -v mqttkit": "`mqttkit sub -v -C N > file`",
    "publish_many": "`client.publish_many`, 1,000 payloads a call",
    "publish": "`client.publish`, for comparison",
    "on_messages": "`MqttClient(on_messages=…)`",
}
Runs = Mapping[str, Sequence[Measured]]


@dataclass(frozen=True)
class RatioGoal:
    """A rate compared with that of mosquitto's command."""

    text: str
    ours: str
    theirs: str
    least: float

    def figure(self, runs: Runs) -> Figure | None:
        """Return the median of the ratios of the rounds; None without a measurement."""
        pairs = list(zip(runs.get(self.ours, ()), runs.get(self.theirs, ()), strict=False))
        if not pairs:
            return None
        ratio = statistics.median(_rate(ours) / _rate(theirs) for ours, theirs in pairs)
        return Figure(self.text, round(ratio, 2), "x", f"at least {self.least:g}", ratio >= self.least)


RATIOS = (
    RatioGoal("`pub -l` compared with mosquitto_pub", "pub mqttkit", "pub mosquitto", 1.0),
    RatioGoal("`pub -q 1 -l`, acknowledged messages a second", "pub 1 mqttkit", "pub 1 mosquitto", 1.0),
    RatioGoal("`sub` compared with mosquitto_sub", "sub mqttkit", "sub mosquitto", 2.0),
)
CPU_GOALS = {"publish_many": 1.0, "on_messages": 1.0}
"""CPU microseconds a message."""


def measure(bench: WireBench, rounds: int, share: float, say: Callable[[str], None]) -> dict[str, list[Measured]]:
    """Run every measurement once per round, every other round in reverse order."""
    found: dict[str, list[Measured]] = {}
    began = time.monotonic()
    jobs = list(_jobs(bench, share).items())
    for number in range(rounds):
        if number and (time.monotonic() - began) * (number + 1) / number > BUDGET_SECONDS:
            say(f"stopped after {number} rounds: the next one would end after {BUDGET_SECONDS:g} s")
            break
        for name, job in jobs if number % 2 == 0 else reversed(jobs):
            measured = job()
            say(f"round {number + 1}: {name}: {_rate(measured):,.0f}/s, {_cpu(measured):.2f} us")
            found.setdefault(name, []).append(measured)
    return found


def _jobs(bench: WireBench, share: float) -> dict[str, Callable[[], Measured]]:
    count = max(int(MESSAGES * share), 1_000) // 1_000 * 1_000
    few = max(int(ACKNOWLEDGED * share), 1_000)
    return {
        "pub mqttkit": lambda: bench.pub("mqttkit", count, 0),
        "pub mosquitto": lambda: bench.pub("mosquitto", count, 0),
        "pub 1 mqttkit": lambda: bench.pub("mqttkit", few, 1),
        "pub 1 mosquitto": lambda: bench.pub("mosquitto", few, 1),
        "sub mqttkit": lambda: bench.sub("mqttkit", count),
        "sub mosquitto": lambda: bench.sub("mosquitto", count),
        "sub -v mqttkit": lambda: bench.sub("mqttkit", count, "-v"),
        "publish_many": lambda: bench.library("publish_many", count),
        "publish": lambda: bench.library("publish", count // 2),
        "on_messages": lambda: bench.library("on_messages", count),
    }


def figures(runs: Runs) -> list[Figure]:
    """Return the goals as figures."""
    found = [figure for goal in RATIOS if (figure := goal.figure(runs)) is not None]
    for name, most in CPU_GOALS.items():
        if name in runs:
            found.append(at_most(f"`{name}`, CPU", statistics.median(map(_cpu, runs[name])), "us/message", most))
    return found


def report(runs: Runs, *, size: int) -> str:
    """Return the section of the page."""
    rounds = max((len(each) for each in runs.values()), default=0)
    today = datetime.datetime.now(datetime.timezone.utc).date().isoformat()
    lines = [
        f"Measured {today} on {describe_machine()}, Python {platform.python_version()}; mqttkit {__version__}.",
        f"Payload {size} bytes, medians of {rounds} alternating rounds, whole processes with their start; for the",
        "library, the time after the connection.",
        "",
        "| | messages | messages/s | CPU, us/message |",
        "| --- | --- | --- | --- |",
    ]
    for name, text in ROWS.items():
        if name in runs:
            each = runs[name]
            count, rate = statistics.median(run.count for run in each), statistics.median(map(_rate, each))
            lines.append(f"| {text} | {count:,.0f} | {rate:,.0f} | {statistics.median(map(_cpu, each)):.2f} |")
    lines += ["", "| goal | measured | | reached |", "| --- | --- | --- | --- |"]
    for figure in figures(runs):
        reached = "yes" if figure.met else "**no**"
        lines.append(f"| {figure.name} | {figure.value:g} {figure.unit} | {figure.goal} | {reached} |")
    return "\n".join(lines)


def _rate(run: Measured) -> float:
    return run.count / run.seconds


def _cpu(run: Measured) -> float:
    return run.cpu / run.count * 1e6
