"""A real Redis, single, behind a Sentinel or as a cluster, on loopback ports."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.bridges import wait_until
from tests.support.brokers import end, free_port, need, wait_for_port


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
        """Start it and wait until it serves."""
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
        wait_until(self._loaded)

    def _loaded(self) -> bool:
        """Tell whether it has read its append-only file: before that it answers each command with LOADING."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=10) as connection:
            connection.sendall(b"PING\r\n")
            return not connection.recv(100).startswith(b"-LOADING")

    def send(self, number: int) -> None:
        """Send a signal to it."""
        assert self.process is not None
        self.process.send_signal(number)

    def stop(self, number: int = signal.SIGTERM) -> None:
        """End it and wait until it is gone."""
        if self.process is None:
            return
        end(self.process, number)
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


@contextlib.contextmanager
def redis_servers(directory: Path, count: int, *lines: str) -> Iterator[list[RedisServer]]:
    """Run several with the same configuration lines."""
    running = [RedisServer(directory / f"redis-{number}", lines) for number in range(count)]
    for server in running:
        if "cluster-enabled yes" in lines:
            server.lines += (f"cluster-port {free_port()}",)
    try:
        for server in running:
            server.start()
        yield running
    finally:
        for server in running:
            server.stop(signal.SIGKILL)


@contextlib.contextmanager
def redis_cluster(directory: Path, count: int) -> Iterator[str]:
    """Run a cluster of masters; its address, as a sink takes it."""
    lines = ("cluster-enabled yes", "cluster-node-timeout 2000", "cluster-config-file nodes.conf")
    with redis_servers(directory, count, *lines) as nodes:
        hosts = [f"127.0.0.1:{node.port}" for node in nodes]
        command = [need("redis-cli"), "--cluster", "create", *hosts, "--cluster-yes"]
        subprocess.run(command, check=True, capture_output=True, timeout=60)
        for node in nodes:
            with node.client() as client:
                wait_until(lambda: client.cluster("info")["cluster_state"] == "ok")
        yield f"redis+cluster://{','.join(hosts)}"
