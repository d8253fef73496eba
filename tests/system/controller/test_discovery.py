"""Discovery in a real network: namespaces with their own addresses, which nothing else can reach."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.network import Network, network

pytestmark = pytest.mark.system


@pytest.fixture
def net() -> Iterator[Network]:
    """Three machines on one switch."""
    with network("scanner", "printer", "silent") as made:
        yield made


CODE = """
import json, sys
from mqttkit.controller.discovery import opening, types
source = opening.open_discovery(sys.argv[1], opening.ScanPlan(subnet=sys.argv[2]))
try:
    print(json.dumps(types.to_report(source())["devices"]))
except types.DiscoveryFailed as error:
    print(json.dumps([{"error": str(error)}]))
"""


def scan(net: Network, name: str, subnet: str = "10.77.0.0/29") -> list[dict[str, Any]]:
    """Return the devices that a source of the command line finds on the machine `scanner`."""
    process = net.run("scanner", [sys.executable, "-c", CODE, name, subnet], stdout=subprocess.PIPE)
    output, _ = process.communicate(timeout=60)
    found: list[dict[str, Any]] = json.loads(output)
    return found


def test_a_sweep_finds_the_machines_of_a_subnet_and_leaves_them_as_neighbours(net: Network) -> None:
    """One answers, one drops everything and only has a MAC address; the other addresses have no device."""
    assert scan(net, "neighbours") == []
    rule = ["iptables", "-I", "INPUT", "-p", "udp", "-j", "DROP"]
    dropped = net.run("silent", rule, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).wait(30) == 0
    found = {one["ip"]: one for one in scan(net, "sweep")}
    assert set(found) == {net.address(machine) for machine in ("scanner", "printer", "silent")}
    printer, silent = found[net.address("printer")], found[net.address("silent")]
    assert "rtt_ms" in printer and "mac" in printer and "mac" in silent
    assert not dropped or "rtt_ms" not in silent
    assert {one["ip"] for one in scan(net, "neighbours")} == {net.address("printer"), net.address("silent")}


def test_a_sweep_without_a_route_is_an_error(net: Network) -> None:
    """Not an empty subnet, whose devices would all be gone."""
    ((error,),) = (one.values() for one in scan(net, "sweep", "10.99.0.0/30"))
    assert error == "cannot reach 10.99.0.0/30: Network is unreachable"
