"""A subnet as a user writes it. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from typing import TypeVar

from mqttkit.errors import UsageError

MAX_HOSTS = 4_096
Network = TypeVar("Network", ipaddress.IPv4Network, ipaddress.IPv4Network | ipaddress.IPv6Network)


def parse_subnet(subnet: str, parse: Callable[[str], Network]) -> Network:
    """Return the network; raise UsageError if the text is invalid or the network has more than 4,096 addresses."""
    try:
        network = parse(subnet)
    except ValueError as error:
        raise UsageError(f"subnet {subnet!r}: {error}") from error
    if network.num_addresses > MAX_HOSTS:
        raise UsageError(f"subnet {subnet!r} has more than {MAX_HOSTS} addresses")
    return network
