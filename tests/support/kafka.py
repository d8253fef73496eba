"""The mock cluster of librdkafka in a process of its own, so that it can be paused and killed."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.bridges import wait_until


@dataclass
class KafkaCluster:
    """One broker, which creates a topic with four partitions when a client first asks for it."""

    directory: Path
    process: subprocess.Popen[bytes] | None = None
    brokers: str = field(default="")

    def start(self) -> None:
        """Start it and read its address."""
        self.directory.mkdir(parents=True, exist_ok=True)
        path = self.directory / "brokers"
        self.process = subprocess.Popen([sys.executable, "-m", "tests.support.kafka", str(path)])
        wait_until(lambda: path.exists() and path.read_text().endswith("\n"))
        self.brokers = path.read_text().strip()

    def send(self, number: int) -> None:
        """Send a signal to it."""
        assert self.process is not None
        self.process.send_signal(number)

    def stop(self) -> None:
        """End it and wait until it is gone."""
        if self.process is not None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
            self.process.wait()
            self.process = None

    def address(self, topic: str) -> str:
        """Address of a topic as a sink."""
        return f"kafka://{self.brokers}/{topic}"


@contextlib.contextmanager
def kafka_cluster(directory: Path) -> Iterator[KafkaCluster]:
    """Run a cluster."""
    cluster = KafkaCluster(directory)
    cluster.start()
    try:
        yield cluster
    finally:
        cluster.stop()


def serve(path: Path) -> None:
    """Run a mock cluster, write its address to a file, and wait to be killed."""
    from confluent_kafka import Producer

    producer = Producer({"test.mock.num.brokers": 1, "bootstrap.servers": "ignored", "log_level": 0})
    brokers = producer.list_topics(timeout=30).brokers.values()
    path.write_text(",".join(f"{broker.host}:{broker.port}" for broker in brokers) + "\n")
    while True:
        time.sleep(60)


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
