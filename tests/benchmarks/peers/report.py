"""The table of `make bench-peers`."""

from __future__ import annotations

import datetime
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from mqttkit import __version__
from mqttkit.bench.machine import describe_machine

CLIENTS = {
    "mqttkit": "**mqttkit**",
    "mosquitto": "mosquitto_pub, mosquitto_sub (C)",
    "paho": "paho-mqtt",
    "paho wide": "paho-mqtt, window of 1,000",
    "gmqtt": "gmqtt",
    "aiomqtt": "aiomqtt",
    "amqtt": "amqtt",
}
HEADINGS = {"pub 0": "publish QoS 0", "pub 1": "publish QoS 1", "sub 0": "receive QoS 0", "sub 1": "receive QoS 1"}


class Numbers(Protocol):
    """The figures of one client in one scenario."""

    @property
    def rate(self) -> float:
        """Messages a second."""

    @property
    def cpu(self) -> float:
        """CPU seconds per 100,000 messages."""

    @property
    def memory(self) -> float:
        """Peak resident memory, MiB."""

    @property
    def seconds(self) -> float:
        """Seconds from start to end."""


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
        """Return a table row: the goal, the measured ratio, and whether the goal is reached."""
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
    Goal("publish QoS 1: rate at least 8 x paho with the same window of 1,000", "pub 1", "paho wide", "rate", 8.0),
    Goal("publish QoS 1: rate at least 8 x paho with its default window of 20", "pub 1", "paho", "rate", 8.0),
    Goal("receive QoS 0: rate at least 0.95 x mosquitto_sub", "sub 0", "mosquitto", "rate", 0.95),
    Goal("receive QoS 0: CPU per message at most gmqtt's", "sub 0", "gmqtt", "cpu", 1.0, at_least=False),
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
            f"Measured {today} on {describe_machine()}, Python {platform.python_version()};",
            f"mqttkit {__version__}, {others}.",
            f"Payload {size} bytes, mosquitto on loopback, medians of {rounds} rounds in alternating order. Each cell:",
            "messages/s; CPU seconds per 100,000 messages; peak resident memory in MiB. All clients use MQTT 3.1.1.",
            "mqttkit waits for at most 1,000 acknowledgements at a time; the others use their default (paho: 20)",
            "unless the row names another. mosquitto_pub publishes the messages that the clients receive. Its stdin",
            "stays open, because it exits at the end of stdin without sending the remaining QoS 1 messages.",
            "",
            "| | " + " | ".join(HEADINGS.values()) + " |",
            "| --- |" + " --- |" * len(HEADINGS),
            *(_row(medians, client) for client in CLIENTS),
            "",
            "Commands, 1,000,000 messages at QoS 0, process start included:",
            "",
            "| command | seconds | CPU seconds per 100,000 messages | peak memory, MiB |",
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
