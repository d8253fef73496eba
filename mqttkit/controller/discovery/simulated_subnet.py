"""Simulated scans of a subnet: ARP finds addresses, ICMP finds hosts that answer, SNMP finds their kind. Pure."""

from __future__ import annotations

import ipaddress
import random
from typing import Any

from mqttkit.controller.discovery.subnet import parse_subnet

KINDS = ("switch", "router", "access-point", "printer", "camera", "server", "workstation", "sensor")


def discover(subnet: str, *, seed: int = 0, share: float = 0.21) -> dict[str, Any]:
    """Return a report of a subnet: about `share` of its addresses are devices. The same seed gives the same report.

    Raises UsageError if the subnet is invalid or has more than 4,096 addresses.
    """
    network = parse_subnet(subnet, ipaddress.ip_network)
    rng = random.Random(f"{seed} {subnet}")  # noqa: S311  a simulation, no secret
    found = arp_scan(network, rng, share)
    answering = icmp_scan(found, rng)
    devices = snmp_scan(found, answering, rng)
    known = sum("kind" in device for device in devices)
    return {"subnet": subnet, "scans": {"arp": len(found), "icmp": len(answering), "snmp": known}, "devices": devices}


def arp_scan(
    network: ipaddress.IPv4Network | ipaddress.IPv6Network, rng: random.Random, share: float
) -> dict[str, str]:
    """Return the MAC address of each address in use."""
    used = [str(host) for host in network.hosts() if rng.random() < share]
    return {host: ":".join(f"{rng.randrange(256):02x}" for _ in range(6)) for host in used}


def icmp_scan(found: dict[str, str], rng: random.Random) -> dict[str, float]:
    """Return the round trip in milliseconds of each address that answers an echo request."""
    return {host: round(rng.lognormvariate(0.5, 0.6), 2) for host in found if rng.random() < 0.9}


def snmp_scan(found: dict[str, str], answering: dict[str, float], rng: random.Random) -> list[dict[str, Any]]:
    """Return one object per device. A device that answers ICMP may answer SNMP too; then its kind is known."""
    devices: list[dict[str, Any]] = []
    for host, mac in found.items():
        device: dict[str, Any] = {"ip": host, "mac": mac}
        if host in answering:
            device["rtt_ms"] = answering[host]
            if rng.random() < 0.6:
                device["kind"] = rng.choice(KINDS)
        devices.append(device)
    return devices
