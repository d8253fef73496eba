"""What the network can reach: the listeners beyond loopback, and the addresses of this machine (proc(5))."""

from __future__ import annotations

import contextlib
import ipaddress
import re
import socket
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from mqttkit.addresses import is_loopback, show_address
from mqttkit.broker.ports import numeric
from mqttkit.broker.profile import BrokerSpec

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
PROC_NET = Path("/proc/net")
LISTENERS = {"port": ("MQTT", "mqtt"), "websocket_port": ("WebSocket", "ws"), "tls_port": ("TLS", "mqtts")}
"""Name and URL scheme of each listener by the field of its port."""
LOCAL_ADDRESS = re.compile(r"\|-- (\S+)\n\s+/32 host LOCAL")
LINK_LOCAL = 0x20
"""Scope of an IPv6 address that is valid only with its interface (if_inet6)."""


@dataclass(frozen=True, kw_only=True)
class ExposedListener:
    """A listener that other machines can reach."""

    name: str
    """`MQTT`, `WebSocket` or `TLS`."""
    scheme: str
    """URL scheme: mqtt, mqtts, ws or wss."""
    listen: IpAddress
    """Address that it is bound to; 0.0.0.0 and :: are every address of the machine."""
    port: int
    """TCP port."""

    @property
    def encrypted(self) -> bool:
        """Whether it speaks TLS."""
        return self.scheme in ("mqtts", "wss")

    def addresses(self) -> list[IpAddress]:
        """Return the addresses at which other machines reach it."""
        if not self.listen.is_unspecified:
            return [self.listen]
        return [one for one in local_addresses() if one.version == self.listen.version and not one.is_loopback]

    def urls(self) -> list[str]:
        """Return the URLs that clients use."""
        return [f"{self.scheme}://{show_address(str(one), self.port)}" for one in self.addresses()]


def exposed_listeners(spec: BrokerSpec) -> list[ExposedListener]:
    """Return the listeners of a started broker that are bound to more than loopback."""
    found = []
    for field, port in spec.ports.items():
        name, scheme = LISTENERS[field]
        if field == "websocket_port" and spec.websocket_tls:
            scheme = "wss"
        address = spec.address_of(field)
        if not is_loopback(address):
            listen = ipaddress.ip_address("0.0.0.0" if address == "*" else numeric(address))  # noqa: S104 - names it
            found.append(ExposedListener(name=name, scheme=scheme, listen=listen, port=port))
    return found


def is_public(addresses: Iterable[IpAddress]) -> bool:
    """Return whether one of the addresses is reachable from the whole Internet."""
    return any(one.is_global for one in addresses)


def local_addresses() -> list[IpAddress]:
    """Return the addresses of this machine, without link-local IPv6 addresses; none if the kernel does not say."""
    found: list[IpAddress] = []
    with contextlib.suppress(OSError):
        text = (PROC_NET / "fib_trie").read_text()
        found += sorted({ipaddress.IPv4Address(address) for address in LOCAL_ADDRESS.findall(text)})
    return found + [ipaddress.IPv6Address(int(fields[0], 16)) for fields in _ipv6_addresses()]


def network_of(address: IpAddress) -> Network | None:
    """Return the network of an address of this machine, such as 192.168.2.0/24; None if it is not known."""
    networks = [one for one in _networks() if address in one]
    return max(networks, key=lambda network: network.prefixlen, default=None)


def _networks() -> Iterator[Network]:
    """Yield the networks that this machine reaches without a gateway."""
    with contextlib.suppress(OSError):
        for line in (PROC_NET / "route").read_text().splitlines()[1:]:
            fields = line.split()
            if int(fields[2], 16) == 0 and int(fields[7], 16):
                destination, mask = (socket.inet_ntoa(struct.pack("=I", int(fields[i], 16))) for i in (1, 7))
                yield ipaddress.IPv4Network(f"{destination}/{mask}", strict=False)
    for fields in _ipv6_addresses():
        yield ipaddress.IPv6Network((int(fields[0], 16), int(fields[2], 16)), strict=False)


def _ipv6_addresses() -> Iterator[list[str]]:
    """Yield the fields of /proc/net/if_inet6: address, interface, prefix length, scope."""
    with contextlib.suppress(OSError):
        for line in (PROC_NET / "if_inet6").read_text().splitlines():
            fields = line.split()
            if int(fields[3], 16) != LINK_LOCAL:
                yield fields
