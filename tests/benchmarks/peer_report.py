"""The table of `make bench-peers`. Pure, but for writing the page."""

from __future__ import annotations

import datetime
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from mqttkit import __version__
from mqttkit.bench.result import machine
from mqttkit.errors import UsageError

BEGIN, END = "<!-- peers: begin -->", "<!-- peers: end -->"
CLIENTS = {
    "mqttkit": "**mqttkit**",
    "mosquitto": "mosquitto_pub, mosquitto_sub (C)",
    "paho": "paho-mqtt",
    "paho wide": "paho-mqtt, 1,000 under way",
    "gmqtt": "gmqtt",
    "aiomqtt": "aiomqtt",
    "amqtt": "amqtt",
}
HEADINGS = {"pub 0": "publish QoS 0", "pub 1": "publish QoS 1", "sub 0": "receive QoS 0", "sub 1": "receive QoS 1"}


class Numbers(Protocol):
    """What is known of one client in one scenario."""

    @property
    def rate(self) -> float:
        """Messages a second."""

    @property
    def cpu(self) -> float:
        """Seconds for 100,000 messages."""

    @property
    def memory(self) -> float:
        """Peak resident memory, MiB."""

    @property
    def seconds(self) -> float:
        """From start to end."""


Medians = Mapping[tuple[str, str], Numbers]


@dataclass(frozen=True)
class Goal:
    """A ratio that mqttkit promises."""

    text: str
    scenario: str
    peer: str
    number: str
    limit: float
    at_least: bool = True
    peer_scenario: str = ""

    def line(self, medians: Medians) -> str:
        """Return the goal, the ratio found, and whether it is reached."""
        ours, theirs = (
            medians.get(("mqttkit", self.scenario)),
            medians.get((self.peer, self.peer_scenario or self.scenario)),
        )
        if ours is None or theirs is None:
            return f"| {self.text} | not measured | |"
        ratio = getattr(ours, self.number) / getattr(theirs, self.number)
        reached = ratio >= self.limit if self.at_least else ratio <= self.limit
        return f"| {self.text} | {ratio:.2f} | {'yes' if reached else '**no**'} |"


GOALS = (
    Goal("publish QoS 0: rate at least 1.0 x mosquitto_pub -l", "pub 0", "mosquitto", "rate", 1.0),
    Goal("publish QoS 0: rate at least 5 x paho", "pub 0", "paho", "rate", 5.0),
    Goal("publish QoS 1: rate at least 1.0 x mosquitto_pub -q 1 -l", "pub 1", "mosquitto", "rate", 1.0),
    Goal("publish QoS 1: rate at least 8 x paho, 1,000 under way as with mqttkit", "pub 1", "paho wide", "rate", 8.0),
    Goal("publish QoS 1: rate at least 8 x paho, 20 under way as by itself", "pub 1", "paho", "rate", 8.0),
    Goal("receive QoS 0: rate at least 0.95 x mosquitto_sub", "sub 0", "mosquitto", "rate", 0.95),
    Goal("receive QoS 0: CPU a message at most gmqtt's", "sub 0", "gmqtt", "cpu", 1.0, at_least=False),
    Goal("receive QoS 1: rate at least 3 x paho", "sub 1", "paho", "rate", 3.0),
    Goal(
        "`mqttkit pub -l < file`: at most 1.5 x mosquitto_pub's time",
        "pub -l",
        "mosquitto",
        "seconds",
        1.5,
        at_least=False,
    ),
    Goal(
        "`mqttkit sub -C N > file`: at most 1.5 x mosquitto_sub's time",
        "sub -C",
        "mosquitto",
        "seconds",
        1.5,
        at_least=False,
    ),
    Goal(
        "`mqttkit sub -C N --json > file`: at most 3 x mosquitto_sub's time",
        *("sub --json", "mosquitto", "seconds", 3.0),
        at_least=False,
        peer_scenario="sub -C",
    ),
)


def report(medians: Medians, versions: Mapping[str, str], *, rounds: int, size: int) -> str:
    """Return the section of the page: conditions, table, commands, goals."""
    today = datetime.datetime.now(datetime.timezone.utc).date().isoformat()
    others = ", ".join(f"{name} {version}" for name, version in versions.items())
    return "\n".join(
        [
            f"Measured {today} on {machine()}, Python {platform.python_version()}; mqttkit {__version__}, {others}.",
            f"Payload {size} bytes, mosquitto on loopback, medians of {rounds} rounds in alternating order. Each cell:",
            "messages/s; CPU seconds for 100,000 messages; peak resident memory in MiB. All speak MQTT 3.1.1; mqttkit",
            "has 1,000 publishes of QoS 1 under way at most, the others what they have where nobody asks (paho 20),",
            "but in the row that says so. What is received comes from mosquitto_pub with its stdin kept open: at its",
            "end QoS 1 messages would stay unsent.",
            "",
            "| | " + " | ".join(HEADINGS.values()) + " |",
            "| --- |" + " --- |" * len(HEADINGS),
            *(_row(medians, client) for client in CLIENTS),
            "",
            "Commands, 1,000,000 messages at QoS 0, process start included:",
            "",
            "| command | seconds | CPU seconds for 100,000 messages | peak memory, MiB |",
            "| --- | --- | --- | --- |",
            *_commands(medians),
            "",
            "| goal | ratio | reached |",
            "| --- | --- | --- |",
            *(goal.line(medians) for goal in GOALS),
        ]
    )


def _row(medians: Medians, client: str) -> str:
    cells = []
    for scenario in HEADINGS:
        found = medians.get((client, scenario))
        cells.append("-" if found is None else f"{found.rate:,.0f}; {found.cpu:.2f}; {found.memory:.0f}")
    return f"| {CLIENTS[client]} | " + " | ".join(cells) + " |"


def _commands(medians: Medians) -> list[str]:
    names = {
        ("mqttkit", "pub -l"): "mqttkit pub -l < file",
        ("mosquitto", "pub -l"): "mosquitto_pub -l < file",
        ("mqttkit", "sub -C"): "mqttkit sub -C N > file",
        ("mosquitto", "sub -C"): "mosquitto_sub -C N > file",
        ("mqttkit", "sub --json"): "mqttkit sub -C N --json > file",
    }
    lines = []
    for key, name in names.items():
        found = medians.get(key)
        if found is not None:
            lines.append(f"| `{name}` | {found.seconds:.2f} | {found.cpu:.2f} | {found.memory:.0f} |")
    return lines


def write_into(page: Path, text: str) -> None:
    """Replace what is between the marks in the page; raise UsageError where they are not there."""
    content = page.read_text(encoding="utf-8")
    head, begin, rest = content.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise UsageError(f"{page} has no {BEGIN} … {END}")
    page.write_text(f"{head}{BEGIN}\n{text}\n{END}{tail}", encoding="utf-8")
