"""Opens the discovery source that a command names."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count
from typing import Any

from mqttkit.controller.discovery.command import CommandSource
from mqttkit.controller.discovery.neighbours import NeighbourSource
from mqttkit.controller.discovery.simulated_subnet import discover
from mqttkit.controller.discovery.sweep import SweepSource
from mqttkit.controller.discovery.types import Discover, DiscoverySource, Found


@dataclass(frozen=True)
class ScanPlan:
    """What the sources need to know."""

    subnet: str = "192.168.1.0/24"
    rate: float = 100.0
    """Datagrams per second of a sweep."""
    seed: int = 0
    """Seed of the first simulated scan; it counts up."""


class FunctionSource:
    """A discovery function of the application."""

    def __init__(self, function: Discover) -> None:
        self._function = function

    def __call__(self) -> Found:
        """Call it."""
        return self._function()

    def close(self) -> None:
        """Do nothing."""


def open_discovery(name: str, plan: ScanPlan) -> DiscoverySource:
    """Return `simulation`, `neighbours`, `sweep`, or a shell command; raise UsageError for an invalid subnet."""
    if name == "simulation":
        return simulated(plan.subnet, plan.seed)
    if name == "neighbours":
        return NeighbourSource()
    if name == "sweep":
        return SweepSource(plan.subnet, rate=plan.rate)
    return CommandSource(name)


def simulated(subnet: str, seed: int) -> FunctionSource:
    """Return simulated scans (ARP, ICMP, SNMP); each has the next seed. Raises UsageError."""
    discover(subnet, seed=seed)
    seeds = count(seed)

    def scan() -> dict[str, Any]:
        return discover(subnet, seed=next(seeds))

    return FunctionSource(scan)
