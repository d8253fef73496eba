"""Devices of a subnet: one datagram to each address, at a bounded rate, and what answers.

It needs no privileges: a host without a program on the port answers with ICMP "port unreachable" (RFC 1122, 4.1.3.1),
which the kernel reports as a refused connection. A host of the same link that drops the datagram still answers ARP, so
the neighbour table has its MAC address.
"""

from __future__ import annotations

import errno
import ipaddress
import select
import socket
import threading
import time
from collections import deque
from typing import Any

from mqttkit.controller.discovery.neighbours import read_neighbours
from mqttkit.controller.discovery.subnet import parse_subnet
from mqttkit.controller.discovery.types import DiscoveryFailed

PORT = 9
"""The discard service: nothing happens to the datagram if a program has the port."""
WAIT_SECONDS = 1.0
"""How long an answer may take."""
_ABSENT = frozenset({errno.EHOSTUNREACH, errno.EACCES})


class SweepSource:
    """Sweeps a subnet of IPv4 for each scan."""

    def __init__(self, subnet: str, *, rate: float = 100.0) -> None:
        """`rate` is in datagrams per second. Raises UsageError for a subnet that is invalid or too large."""
        self._network, self._rate = parse_subnet(subnet, ipaddress.IPv4Network), rate
        self._stop = threading.Event()

    def __call__(self) -> dict[str, Any]:
        """Sweep once; raise DiscoveryFailed if the subnet cannot be reached at all."""
        answers = self._probe()
        found: dict[str, dict[str, Any]] = {host: {"ip": host, "rtt_ms": rtt} for host, rtt in answers.items()}
        for neighbour in read_neighbours():
            for address in neighbour["addresses"]:
                if ":" not in address and ipaddress.IPv4Address(address) in self._network:
                    known = found.get(address, {})
                    found[address] = {"ip": address, "mac": neighbour["mac"], **known}
        ordered = sorted(found.values(), key=lambda device: ipaddress.IPv4Address(device["ip"]))
        return {"subnet": str(self._network), "devices": ordered}

    def close(self) -> None:
        """End a sweep."""
        self._stop.set()

    def _probe(self) -> dict[str, float]:
        """Return the round trip of each address that answered, in milliseconds."""
        answers: dict[str, float] = {}
        waiting: deque[tuple[float, str, socket.socket]] = deque()
        began = time.monotonic()
        try:
            for number, host in enumerate(map(str, self._network.hosts())):
                self._stop.wait(max(0.0, began + number / self._rate - time.monotonic()))
                if self._stop.is_set():
                    raise DiscoveryFailed("the sweep has ended early")
                waiting.append((time.monotonic(), host, self._send(host)))
                self._collect(waiting, answers, 0.0)
            while waiting and not self._stop.is_set():
                self._collect(waiting, answers, 0.05)
        finally:
            for _, _, opened in waiting:
                opened.close()
        return answers

    def _send(self, host: str) -> socket.socket:
        opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        opened.setblocking(False)
        try:
            opened.connect((host, PORT))
            opened.send(b"")
        except OSError as error:
            if error.errno in (errno.ENETUNREACH, errno.EPERM):
                opened.close()
                raise DiscoveryFailed(f"cannot reach {self._network}: {error.strerror}") from error
        return opened

    def _collect(
        self, waiting: deque[tuple[float, str, socket.socket]], answers: dict[str, float], seconds: float
    ) -> None:
        """Take answers for up to `seconds`, and give up the addresses whose time has passed."""
        poller = select.poll()
        for _, _, opened in waiting:
            poller.register(opened, select.POLLIN)
        ready = {descriptor for descriptor, _ in poller.poll(seconds * 1_000)}
        now = time.monotonic()
        for entry in list(waiting):
            sent, host, opened = entry
            if opened.fileno() in ready:
                error = opened.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                if error not in _ABSENT:
                    answers[host] = round((now - sent) * 1_000, 2)
            elif now - sent < WAIT_SECONDS:
                continue
            opened.close()
            waiting.remove(entry)
