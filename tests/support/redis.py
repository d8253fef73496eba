"""A real Redis, single, behind a Sentinel or as a cluster, on loopback ports."""

from __future__ import annotations

import contextlib
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.brokers import free_port, need, wait_for_port


@dataclass
class RedisServer:
    """A redis-server that can be stopped, killed, paused and started again on the same port."""

    directory: Path
    lines: tuple[str, ...] = ()
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None
    mode: tuple[str, ...] = ()

    @property
    def url(self) -> str:
        """Address for clients."""
        return f"redis://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it and wait until it accepts connections."""
        program = need("redis-server")
        self.directory.mkdir(parents=True, exist_ok=True)
        conf = self.directory / "redis.conf"
        if not conf.exists():
            head = (f"port {self.port}", "bind 127.0.0.1", f"dir {self.directory}")
            store = () if self.mode else ('save ""', "appendonly yes", "appendfsync everysec")
            conf.write_text("\n".join((*head, *store, *self.lines)) + "\n")
        with (self.directory / "redis.log").open("ab") as log:
            self.process = subprocess.Popen([program, str(conf), *self.mode], stdout=log, stderr=log)
        wait_for_port(self.port)

    def send(self, number: int) -> None:
        """Send a signal to it."""
        assert self.process is not None
        self.process.send_signal(number)

    def stop(self, number: int = signal.SIGTERM) -> None:
        """End it and wait until it is gone."""
        if self.process is None:
            return
        self.process.send_signal(signal.SIGCONT)
        self.process.send_signal(number)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process = None

    def client(self) -> Any:
        """A client of it; close it."""
        import redis

        return redis.Redis(port=self.port, decode_responses=True)


@contextlib.contextmanager
def redis_server(directory: Path, *lines: str) -> Iterator[RedisServer]:
    """Run a Redis with an append-only file and further configuration lines."""
    server = RedisServer(directory, lines)
    server.start()
    try:
        yield server
    finally:
        server.stop()
