"""Real brokers for tests: each on a free loopback port, with a directory of its own."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from signal import SIGCONT, SIGTERM
from typing import NoReturn

import pytest

from mqttkit.broker import Broker, Profile
from mqttkit.broker.profile import read_profile

MOSQUITTO_PATHS = "/usr/sbin:/usr/local/sbin"
FIRST_PORT, BLOCK_PORTS, BLOCKS = 12_000, 50, 200
_blocks: dict[int, socket.socket] = {}
"""The blocks of ports that belong to this process, with the lock that keeps other processes' tests from each."""
_unused: list[int] = []
"""Ports of these blocks that no test has got yet."""


def need(program: str) -> str:
    """Return the program's path; without it fail under CI=true and skip elsewhere."""
    found = shutil.which(program, path=f"{os.environ.get('PATH', '')}:{MOSQUITTO_PATHS}")
    if found is None:
        missing(f"{program} is not installed")
    return found


def missing(reason: str) -> NoReturn:
    """Fail under CI=true, skip elsewhere: a part that the test needs is not there."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def end(process: subprocess.Popen[bytes], number: int) -> None:
    """Send a signal and wait until the process is gone; kill it after a minute."""
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(number)
        process.send_signal(SIGCONT)  # a paused one takes it then, and does nothing before
    try:
        process.wait(60)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def free_port() -> int:
    """Return a TCP port of the loopback address that is free, and stays free until a program asks for this very one.

    The kernel takes the ports of connections and of port 0 from ip_local_port_range (32768 and above): a broker that
    stops might not get such a port back. Parallel test processes never get the same port.
    """
    while True:
        if not _unused:
            _unused.extend(_next_block())
        port = _unused.pop()
        if _nobody_listens(port):
            return port


def _next_block() -> list[int]:
    """Return the ports of a block that is this process's until it ends; those of its first one if none is left."""
    start = secrets.randbelow(BLOCKS)
    block = next(
        (each % BLOCKS for each in range(start, start + BLOCKS) if _lock(each % BLOCKS)), next(iter(_blocks), start)
    )
    first = FIRST_PORT + block * BLOCK_PORTS
    return secrets.SystemRandom().sample(range(first, first + BLOCK_PORTS), BLOCK_PORTS)


def _lock(block: int) -> bool:
    """Reserve a block among all test processes of this machine until this process ends."""
    if block in _blocks:
        return False
    lock = socket.socket(socket.AF_UNIX)
    try:
        lock.bind(f"\0mqttkit-test-ports-{block}")
    except OSError:
        lock.close()
        return False
    _blocks[block] = lock
    return True


def _nobody_listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", port))
        return True
    return False


def wait_for_port(port: int, seconds: float = 60.0) -> None:
    """Wait until something accepts on the port of the loopback address."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        else:
            return


@dataclass
class Mosquitto:
    """A native mosquitto that can be stopped, killed, paused and started again on the same port."""

    directory: Path
    lines: tuple[str, ...] = ()
    """Further lines of mosquitto.conf; `listener` and `allow_anonymous` come before them."""
    anonymous: bool = True
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it accepts connections."""
        program = need("mosquitto")
        self.directory.mkdir(parents=True, exist_ok=True)
        conf = self.directory / "mosquitto.conf"
        head = (f"listener {self.port} 127.0.0.1", f"allow_anonymous {str(self.anonymous).lower()}")
        user = ("user root",) if os.geteuid() == 0 else ()
        conf.write_text("\n".join((*head, *user, "log_type all", *self.lines)) + "\n")
        log = (self.directory / "mosquitto.log").open("ab")
        with log:
            self.process = subprocess.Popen([program, "-c", str(conf)], stdout=log, stderr=log)
        wait_for_port(self.port)

    def signal(self, number: int) -> None:
        """Send a signal to it."""
        assert self.process is not None
        self.process.send_signal(number)

    def stop(self, number: int = SIGTERM) -> None:
        """End it and wait until it is gone."""
        if self.process is None:
            return
        end(self.process, number)
        self.process = None

    @property
    def log(self) -> str:
        """What it wrote so far."""
        return (self.directory / "mosquitto.log").read_text(errors="replace")


@contextlib.contextmanager
def mosquitto(directory: Path, *lines: str, anonymous: bool = True) -> Iterator[Mosquitto]:
    """Run a mosquitto with further configuration lines."""
    broker = Mosquitto(directory, lines, anonymous)
    broker.start()
    try:
        yield broker
    finally:
        broker.stop()


def profile_of(broker: Broker) -> Profile:
    """Return how to reach a broker that mqttkit runs."""
    profile = read_profile(broker.paths)
    assert profile is not None
    return profile
