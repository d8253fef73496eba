"""Several machines: network namespaces on one switch, each with an address of its own, links that can be cut."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.support.brokers import missing


def ip(*arguments: str) -> None:
    """Run `ip`; what it says of an error is in the error."""
    ran = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if ran.returncode:
        raise RuntimeError(f"ip {' '.join(arguments)}: {ran.stderr.strip()}")


@dataclass
class Network:
    """Namespaces, by the name of the machine that they stand for."""

    prefix: str
    machines: list[str] = field(default_factory=list)

    def namespace(self, machine: str) -> str:
        """Return a machine's namespace."""
        return f"{self.prefix}-{machine}"

    def address(self, machine: str) -> str:
        """Return a machine's address."""
        return f"10.77.0.{self.machines.index(machine) + 1}"

    def add(self, machine: str) -> None:
        """Make a machine and put its cable into the switch."""
        self.machines.append(machine)
        number = len(self.machines)
        name, switch = self.namespace(machine), self.namespace("switch")
        ip("netns", "add", name)
        ip("link", "add", f"p{number}", "netns", switch, "type", "veth", "peer", "name", "eth0", "netns", name)
        ip("-n", switch, "link", "set", f"p{number}", "master", "br0", "up")
        ip("-n", name, "address", "add", f"{self.address(machine)}/24", "dev", "eth0")
        for device in ("lo", "eth0"):
            ip("-n", name, "link", "set", device, "up")

    def cut(self, machine: str) -> None:
        """Pull the machine's cable out of the switch: packets vanish, no connection is told."""
        self._plug(machine, "nomaster")

    def heal(self, machine: str) -> None:
        """Put it back."""
        self._plug(machine, "master", "br0")

    def _plug(self, machine: str, *how: str) -> None:
        port = f"p{self.machines.index(machine) + 1}"
        ip("-n", self.namespace("switch"), "link", "set", port, *how)

    def run(self, machine: str, command: Sequence[str], **options: Any) -> subprocess.Popen[str]:
        """Start a process on a machine."""
        return subprocess.Popen(["ip", "netns", "exec", self.namespace(machine), *command], text=True, **options)

    def mqttkit(self, machine: str, *arguments: str, **options: Any) -> subprocess.Popen[str]:
        """Start `mqttkit ...` on a machine."""
        return self.run(machine, [sys.executable, "-m", "mqttkit", *arguments], **options)


@contextlib.contextmanager
def network(*machines: str) -> Iterator[Network]:
    """Make machines on one switch; without the right to, fail under CI=true and skip elsewhere."""
    if shutil.which("ip") is None or os.geteuid() != 0:
        missing("network namespaces need iproute2 and root")
    made = Network(f"mk{os.getpid()}")
    switch = made.namespace("switch")
    try:
        ip("netns", "add", switch)
    except RuntimeError as error:
        missing(f"network namespaces cannot be made: {error}")
    try:
        ip("-n", switch, "link", "add", "br0", "type", "bridge")
        ip("-n", switch, "link", "set", "br0", "up")
        for machine in machines:
            made.add(machine)
        yield made
    finally:
        for machine in made.machines:
            ip("netns", "del", made.namespace(machine))
        ip("netns", "del", switch)
