"""Devices from the neighbour table of the kernel: the addresses with which this machine has exchanged packets."""

from __future__ import annotations

import json
import subprocess
from typing import Any

from mqttkit.controller.discovery.types import DiscoveryFailed

ABSENT = frozenset({"FAILED", "INCOMPLETE", "NONE", "NOARP"})
"""States of entries that prove no device (ip-neighbour(8))."""
_SECONDS = 10.0


def read_neighbours() -> list[dict[str, Any]]:
    """Return the devices in the neighbour table, one for each MAC address; raise DiscoveryFailed."""
    try:
        done = subprocess.run(["ip", "-json", "neigh", "show"], capture_output=True, timeout=_SECONDS, check=True)
        entries = json.loads(done.stdout or b"[]")
    except FileNotFoundError as error:
        raise DiscoveryFailed("there is no program `ip`", hint="Install iproute2") from error
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        raise DiscoveryFailed(f"cannot read the neighbour table: {error}") from error
    return parse_neighbours(entries)


def parse_neighbours(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return one device for each MAC address in what `ip -json neigh` prints. Pure."""
    found: dict[str, dict[str, Any]] = {}
    for entry in entries:
        mac, address, states = entry.get("lladdr"), entry.get("dst"), entry.get("state", [])
        if not mac or not address or ABSENT.intersection(states):
            continue
        device = found.setdefault(mac, {"mac": mac, "addresses": [], "interface": entry.get("dev", "")})
        device["addresses"] = sorted({*device["addresses"], address}, key=lambda one: (":" in one, one))
        device["ip"] = device["addresses"][0]
        if "router" in entry:
            device["router"] = True
    return sorted(found.values(), key=lambda device: str(device["mac"]))


class NeighbourSource:
    """Reads the neighbour table for each scan."""

    def __call__(self) -> list[dict[str, Any]]:
        """Return the devices; raise DiscoveryFailed."""
        return read_neighbours()

    def close(self) -> None:
        """Do nothing: a scan is short."""
