"""A broker under test: its nodes as processes that can be killed and started again."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.interoperability.debian import NotInstalled

START_SECONDS = 120
STOP_SECONDS = 30


@dataclass
class Node:
    """One process of a broker, in its own process group."""

    name: str
    port: int
    """TCP port for MQTT on the loopback address."""
    command: Sequence[str]
    directory: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    def launch(self) -> None:
        """Start the process; do not wait for it."""
        with (self.directory / f"{self.name}.log").open("ab") as log:
            self.process = subprocess.Popen(
                list(self.command),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.directory,
                env={**os.environ, **self.environment},
                start_new_session=True,
            )

    def wait(self) -> None:
        """Wait until it answers CONNECT; raise NotInstalled if it ends or never does."""
        deadline = time.monotonic() + START_SECONDS
        while not answers_connect(self.port):
            if self.process is None or self.process.poll() is not None or time.monotonic() > deadline:
                raise NotInstalled(f"{self.name} did not start: {self._last_line()}")
            time.sleep(0.2)

    def end(self, number: int = signal.SIGTERM) -> None:
        """Send a signal to the whole group, and wait until the process is gone."""
        if self.process is None:
            return
        for each in (number, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, each)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(STOP_SECONDS)
                break
        self.process = None

    def kill(self) -> None:
        """End it with SIGKILL."""
        self.end(signal.SIGKILL)

    def _last_line(self) -> str:
        lines = (self.directory / f"{self.name}.log").read_text(errors="replace").strip().splitlines()
        return lines[-1][:200] if lines else "it wrote nothing"


def answers_connect(port: int) -> bool:
    """Return whether a broker sends a CONNACK for a CONNECT of MQTT 3.1.1."""
    connect = b"\x10\x14\0\4MQTT\4\2\0\x3c\0\x08is-it-up"
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=2) as connection:
            connection.sendall(connect)
            return connection.recv(4)[:1] == b"\x20"
    except OSError:
        return False


@dataclass
class Cluster:
    """The nodes of one broker, and what is around them."""

    name: str
    version: str
    nodes: list[Node]
    settings: str = ""
    """What had to be set, in the broker's own words."""
    helpers: list[Node] = field(default_factory=list)
    """Processes that the nodes need, such as a database."""

    @property
    def ports(self) -> list[int]:
        """The MQTT port of each node."""
        return [node.port for node in self.nodes]


@contextlib.contextmanager
def running(cluster: Cluster) -> Iterator[Cluster]:
    """Start the helpers and all nodes, wait for them, and end them; raise NotInstalled if they do not start."""
    try:
        for node in [*cluster.helpers, *cluster.nodes]:
            node.launch()
        for node in cluster.nodes:
            node.wait()
        yield cluster
    finally:
        for node in [*cluster.nodes, *cluster.helpers]:
            node.end()
