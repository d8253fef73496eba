"""The sinks of the soak run: each can be interrupted hard, and says how often it has stored each number."""

from __future__ import annotations

import contextlib
import fcntl
import json
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from mqttkit.bridge.sinks.remote.kafka import KafkaDestination
from mqttkit.bridge.sinks.remote.nats import NatsDestination
from mqttkit.bridge.sinks.types import SinkOptions
from tests.support.bridges import wait_until
from tests.support.brokers import free_port, wait_for_port
from tests.support.kafka import KafkaCluster, kafka_cluster
from tests.support.line_servers import Influx, Victoria, influx_server, victoria_server
from tests.support.nats import NatsServer, nats_server
from tests.support.postgres import Postgres, postgres
from tests.support.redis import RedisServer, redis_server

BLOCKED_SECONDS = 3.0
"""How long a sink is locked or paused: longer than a commit waits for a file."""
READ_SECONDS = 600.0
"""Within this time everything that is stored can be read."""
NOT_LEADER, TIMED_OUT, TOO_FEW_REPLICAS, NO_RIGHT, OUT_OF_ORDER = 6, 7, 19, 29, 45
"""Errors of Kafka's protocol. The last two end the producer."""


class SoakSink:
    """A sink that a soak run interrupts."""

    address = ""

    def interrupt(self) -> None:
        """Kill the server and start it again, or block the sink for a while."""
        raise NotImplementedError

    def values(self) -> Iterator[float]:
        """Yield every value that is stored, as often as it is."""
        raise NotImplementedError

    def stored(self, count: int) -> bytearray:
        """Return how often each number from 0 up to `count` is stored."""
        found = bytearray(count)
        for value in self.values():
            found[int(value)] += 1
        return found


@contextlib.contextmanager
def soak_sink(kind: str, directory: Path) -> Iterator[SoakSink]:
    """Run the sink of this kind."""
    with contextlib.ExitStack() as stack:
        run = stack.enter_context
        if kind == "sqlite":
            yield SqliteFile(directory / "metrics.db")
        elif kind == "jsonl":
            yield JsonlFiles(directory / "metrics.jsonl")
        elif kind == "redis":
            yield RedisStream(run(redis_server(directory / "redis")))
        elif kind == "postgresql":
            yield PostgresqlTable(run(postgres(directory)))
        elif kind == "influx":
            yield InfluxSeries(run(influx_server(directory / "influx")))
        elif kind == "victoria":
            yield VictoriaSeries(run(victoria_server(directory / "victoria")))
        elif kind == "nats":
            yield NatsStream(run(nats_server(directory / "nats")))
        elif kind == "kafka":
            yield run(contextlib.closing(KafkaTopic(run(kafka_cluster(directory / "kafka")))))
        else:
            yield run(contextlib.closing(IdempotentServer(directory / "received.db")))


class SqliteFile(SoakSink):
    """A file, which another process locks for a while."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.address = f"sqlite:{path}"

    def interrupt(self) -> None:
        with contextlib.closing(sqlite3.connect(self.path, timeout=60, isolation_level=None)) as database:
            database.execute("BEGIN IMMEDIATE")
            time.sleep(BLOCKED_SECONDS)
            database.execute("ROLLBACK")

    def values(self) -> Iterator[float]:
        with contextlib.closing(sqlite3.connect(self.path, timeout=60)) as database:
            yield from (value for (value,) in database.execute("SELECT value FROM metrics"))


class JsonlFiles(SoakSink):
    """A file and its rotated predecessors; another process locks it for a while."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.address = f"jsonl:{path}"

    def interrupt(self) -> None:
        with self.path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            time.sleep(BLOCKED_SECONDS)

    def values(self) -> Iterator[float]:
        for path in [*self.path.parent.glob(f"{self.path.name}.*Z-*"), self.path]:
            with path.open("rb") as lines:
                yield from (json.loads(line)["value"] for line in lines)


class Server(Protocol):
    """A server that can be ended with a signal and started again with its data."""

    def start(self) -> None: ...

    def stop(self, number: int = ..., /) -> None: ...


class ServerSink(SoakSink):
    """A sink on a server, which a signal ends."""

    how = signal.SIGKILL

    def __init__(self, server: Server, address: str) -> None:
        self._server = server
        self.address = address

    def interrupt(self) -> None:
        self._server.stop(self.how)
        self._server.start()


class RedisStream(ServerSink):
    """A stream; the server is killed with SIGKILL."""

    def __init__(self, server: RedisServer) -> None:
        super().__init__(server, server.url)
        self._client = server.client

    def values(self) -> Iterator[float]:
        with self._client() as client:
            after = "-"
            while entries := client.xrange("mqttkit:metrics", after, "+", count=5_000):
                yield from (float(fields["value"]) for _, fields in entries)
                after = f"({entries[-1][0]}"


class PostgresqlTable(ServerSink):
    """A table; the server ends without a checkpoint and recovers from its log."""

    how = signal.SIGQUIT

    def __init__(self, server: Postgres) -> None:
        super().__init__(server, server.url)

    def values(self) -> Iterator[float]:
        import psycopg

        with psycopg.connect(self.address) as connection, connection.cursor("values") as cursor:
            cursor.itersize = 10_000
            cursor.execute("SELECT value FROM metrics")
            yield from (value for (value,) in cursor)


class InfluxSeries(ServerSink):
    """Points in InfluxDB; the server is killed with SIGKILL."""

    def __init__(self, server: Influx) -> None:
        super().__init__(server, server.address("metrics"))
        self._query = server.query

    def values(self) -> Iterator[float]:
        for (name,) in self._query("SHOW MEASUREMENTS", "metrics"):
            yield from (value for _, value in self._query(f'SELECT value FROM "{name}"', "metrics"))


class VictoriaSeries(ServerSink):
    """Samples in VictoriaMetrics; the server is killed with SIGKILL and loses its last seconds."""

    def __init__(self, server: Victoria) -> None:
        super().__init__(server, server.url)
        self._samples = server.samples

    def values(self) -> Iterator[float]:
        yield from (value for _, value, _ in self._samples('{tenant_id!=""}'))


class NatsStream(ServerSink):
    """A stream of JetStream; the server is killed with SIGKILL."""

    def __init__(self, server: NatsServer) -> None:
        super().__init__(server, server.address("metrics"))

    def values(self) -> Iterator[float]:
        with contextlib.closing(NatsDestination(self.address, SinkOptions(timeout=READ_SECONDS))) as destination:
            yield from (json.loads(data)["value"] for data in destination.read())


class KafkaTopic(SoakSink):
    """A topic of the mock cluster. It answers errors and stands still for a while; killed, it would lose its messages.

    It keeps 5 MB of each partition, so a thread reads along.
    """

    def __init__(self, cluster: KafkaCluster) -> None:
        from confluent_kafka import Consumer, TopicPartition

        self._cluster = cluster
        self.address = cluster.address("metrics")
        self._values = array("d")
        with contextlib.closing(KafkaDestination(self.address, SinkOptions(timeout=60.0))) as destination:
            destination.check_reachable()  # which creates the topic
        self._consumer = Consumer({"bootstrap.servers": cluster.brokers, "group.id": "soak", "log_level": 0})
        self._next = dict.fromkeys(self._consumer.list_topics("metrics", timeout=60).topics["metrics"].partitions, 0)
        self._consumer.assign([TopicPartition("metrics", partition, 0) for partition in self._next])
        self._closing = threading.Event()
        self._failure = ""
        self._thread = threading.Thread(target=self._read_along, daemon=True)
        self._thread.start()

    def interrupt(self) -> None:
        self._cluster.answer_errors(NOT_LEADER, TIMED_OUT, TOO_FEW_REPLICAS, NO_RIGHT, OUT_OF_ORDER)
        self._cluster.send(signal.SIGSTOP)
        time.sleep(BLOCKED_SECONDS)
        self._cluster.send(signal.SIGCONT)

    def values(self) -> Iterator[float]:
        wait_until(self._has_read_all, READ_SECONDS, "the reader of the topic")
        yield from self._values[:]

    def close(self) -> None:
        """End the reader."""
        self._closing.set()
        self._thread.join()
        self._consumer.close()

    def _has_read_all(self) -> bool:
        assert not self._failure, self._failure
        with contextlib.closing(KafkaDestination(self.address, SinkOptions(timeout=60.0))) as destination:
            ends = destination.read_ends()
        return all(end <= self._next[partition] for partition, end in ends.items())

    def _read_along(self) -> None:
        while not self._closing.is_set() and not self._failure:
            message = self._consumer.poll(0.1)
            if message is None or message.error() is not None:
                continue
            partition, offset, text = message.partition(), message.offset(), message.value()
            if partition is None or text is None or offset != self._next[partition]:
                self._failure = f"the reader missed messages before {offset} of partition {partition}"
                return
            self._values.append(json.loads(text)["value"])
            self._next[partition] = offset + 1


class IdempotentServer(SoakSink):
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

    def values(self) -> Iterator[float]:
        yield from SqliteFile(self._path).values()

    def close(self) -> None:
        """Kill it."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def _start(self) -> None:
        command = [sys.executable, "-m", "tests.support.idempotent_server", str(self._port), str(self._path)]
        self._process = subprocess.Popen(command)
        wait_for_port(self._port)
