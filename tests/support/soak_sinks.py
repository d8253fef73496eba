"""The sinks of the soak run: each can be interrupted hard, and says how often it has stored each number."""

from __future__ import annotations

import contextlib
import fcntl
import json
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from tests.support.brokers import free_port, wait_for_port
from tests.support.line_servers import Influx, Victoria, influx_server, victoria_server
from tests.support.postgres import Postgres, postgres
from tests.support.redis import RedisServer, redis_server

LOCKED_SECONDS = 3.0
"""How long a file is locked: longer than a commit waits for it."""


class SoakSink(Protocol):
    """A sink that a soak run interrupts."""

    address: str

    def interrupt(self) -> None:
        """Kill the server and start it again, or lock the file for a while."""
        ...

    def stored(self, count: int) -> bytearray:
        """Return how often each number from 0 up to `count` is stored."""
        ...


@contextlib.contextmanager
def soak_sink(kind: str, directory: Path) -> Iterator[SoakSink]:
    """Run the sink of this kind."""
    if kind == "sqlite":
        yield SqliteFile(directory / "metrics.db")
    elif kind == "jsonl":
        yield JsonlFiles(directory / "metrics.jsonl")
    elif kind == "redis":
        with redis_server(directory / "redis") as redis:
            yield RedisStream(redis)
    elif kind == "postgresql":
        with postgres(directory) as server:
            yield PostgresqlTable(server)
    elif kind == "influx":
        with influx_server(directory / "influx") as influx:
            yield InfluxSeries(influx)
    elif kind == "victoria":
        with victoria_server(directory / "victoria") as victoria:
            yield VictoriaSeries(victoria)
    else:
        with contextlib.closing(IdempotentServer(directory / "received.db")) as receiver:
            yield receiver


def _count(values: Iterator[float], count: int) -> bytearray:
    found = bytearray(count)
    for value in values:
        found[int(value)] += 1
    return found


class SqliteFile:
    """A file, which another process locks for a while."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.address = f"sqlite:{path}"

    def interrupt(self) -> None:
        with contextlib.closing(sqlite3.connect(self.path, timeout=60, isolation_level=None)) as database:
            database.execute("BEGIN IMMEDIATE")
            time.sleep(LOCKED_SECONDS)
            database.execute("ROLLBACK")

    def stored(self, count: int) -> bytearray:
        with contextlib.closing(sqlite3.connect(self.path, timeout=60)) as database:
            return _count((value for (value,) in database.execute("SELECT value FROM metrics")), count)


class JsonlFiles:
    """A file and its rotated predecessors; another process locks it for a while."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.address = f"jsonl:{path}"

    def interrupt(self) -> None:
        with self.path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            time.sleep(LOCKED_SECONDS)

    def stored(self, count: int) -> bytearray:
        return _count(self._values(), count)

    def _values(self) -> Iterator[float]:
        for path in [*self.path.parent.glob(f"{self.path.name}.*Z-*"), self.path]:
            with path.open("rb") as lines:
                yield from (json.loads(line)["value"] for line in lines)


class RedisStream:
    """A stream; the server is killed with SIGKILL."""

    def __init__(self, server: RedisServer) -> None:
        self._server = server
        self.address = server.url

    def interrupt(self) -> None:
        self._server.stop(signal.SIGKILL)
        self._server.start()

    def stored(self, count: int) -> bytearray:
        return _count(self._values(), count)

    def _values(self) -> Iterator[float]:
        with self._server.client() as client:
            after = "-"
            while entries := client.xrange("mqttkit:metrics", after, "+", count=5_000):
                yield from (float(fields["value"]) for _, fields in entries)
                after = f"({entries[-1][0]}"


class PostgresqlTable:
    """A table; the server ends without a checkpoint and recovers from its log."""

    def __init__(self, server: Postgres) -> None:
        self._server = server
        self.address = server.url

    def interrupt(self) -> None:
        self._server.stop(signal.SIGQUIT)
        self._server.start()

    def stored(self, count: int) -> bytearray:
        import psycopg

        with psycopg.connect(self.address) as connection, connection.cursor("values") as cursor:
            cursor.itersize = 10_000
            cursor.execute("SELECT value FROM metrics")
            return _count((value for (value,) in cursor), count)


class InfluxSeries:
    """Points in InfluxDB; the server is killed with SIGKILL."""

    def __init__(self, server: Influx) -> None:
        self._server = server
        self.address = server.address("metrics")

    def interrupt(self) -> None:
        self._server.stop(signal.SIGKILL)
        self._server.start()

    def stored(self, count: int) -> bytearray:
        return _count(self._values(), count)

    def _values(self) -> Iterator[float]:
        for (name,) in self._server.query("SHOW MEASUREMENTS", "metrics"):
            yield from (value for _, value in self._server.query(f'SELECT value FROM "{name}"', "metrics"))


class VictoriaSeries:
    """Samples in VictoriaMetrics, which keeps the last seconds in memory only: it is stopped with SIGTERM."""

    def __init__(self, server: Victoria) -> None:
        self._server = server
        self.address = server.url

    def interrupt(self) -> None:
        self._server.stop()
        self._server.start()

    def stored(self, count: int) -> bytearray:
        return _count((value for _, value, _ in self._server.samples('{tenant_id!=""}')), count)


class IdempotentServer:
    """An HTTP server that honours the Idempotency-Key, in its own process; it is killed with SIGKILL."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self.address = f"http://127.0.0.1:{self._port}/ingest"
        self._start()

    def interrupt(self) -> None:
        self.close()
        self._start()

    def stored(self, count: int) -> bytearray:
        return SqliteFile(self._path).stored(count)

    def close(self) -> None:
        """Kill it."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def _start(self) -> None:
        command = [sys.executable, "-m", "tests.support.idempotent_server", str(self._port), str(self._path)]
        self._process = subprocess.Popen(command)
        wait_for_port(self._port)
