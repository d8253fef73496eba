"""The mock cluster of librdkafka in its own process, so that it can be paused and killed.

It keeps its messages in memory and does not check the sequence numbers of idempotent producers: if an answer is lost,
the producer sends the messages again, and the mock stores them twice. So tests pause it and let it answer errors.
"""

from __future__ import annotations

import contextlib
import ctypes
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

PRODUCE = 0
"""The request of Kafka's protocol that carries messages."""


@dataclass
class KafkaCluster:
    """One broker, which creates a topic with four partitions when a client first asks for it."""

    directory: Path
    process: subprocess.Popen[str] | None = None
    brokers: str = field(default="")

    def start(self) -> None:
        """Start it and read its address."""
        self.directory.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "tests.support.kafka"]
        self.process = subprocess.Popen(command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.brokers = self._read()

    def send(self, number: int) -> None:
        """Send a signal to it."""
        assert self.process is not None
        self.process.send_signal(number)

    def answer_errors(self, *codes: int) -> None:
        """Answer the next requests with these error codes of Kafka's protocol, and do not store their messages."""
        assert self.process is not None
        assert self.process.stdin is not None
        self.process.stdin.write(" ".join(map(str, codes)) + "\n")
        self.process.stdin.flush()
        assert self._read() == "ready"

    def stop(self) -> None:
        """End it and wait until it is gone."""
        if self.process is not None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
            self.process.communicate()
            self.process = None

    def address(self, topic: str) -> str:
        """Address of a topic as a sink."""
        return f"kafka://{self.brokers}/{topic}"

    def _read(self) -> str:
        assert self.process is not None
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()


@contextlib.contextmanager
def kafka_cluster(directory: Path) -> Iterator[KafkaCluster]:
    """Run a cluster."""
    cluster = KafkaCluster(directory)
    cluster.start()
    try:
        yield cluster
    finally:
        cluster.stop()


def serve() -> None:
    """Run a mock cluster, print its address, and take lines of error codes until the input ends."""
    from confluent_kafka import cimpl

    library = ctypes.CDLL(cimpl.__file__)
    library.rd_kafka_conf_new.restype = library.rd_kafka_new.restype = ctypes.c_void_p
    library.rd_kafka_mock_cluster_new.restype = ctypes.c_void_p
    library.rd_kafka_mock_cluster_bootstraps.restype = ctypes.c_char_p
    reason = ctypes.create_string_buffer(512)
    settings = ctypes.c_void_p(library.rd_kafka_conf_new())
    library.rd_kafka_conf_set(settings, b"log_level", b"0", reason, len(reason))
    handle = library.rd_kafka_new(0, settings, reason, len(reason))
    assert handle, reason.value
    cluster = ctypes.c_void_p(library.rd_kafka_mock_cluster_new(ctypes.c_void_p(handle), 1))
    print(library.rd_kafka_mock_cluster_bootstraps(cluster).decode(), flush=True)
    for line in sys.stdin:
        codes = [int(word) for word in line.split()]
        errors = (ctypes.c_int * len(codes))(*codes)
        library.rd_kafka_mock_push_request_errors_array(
            cluster, ctypes.c_int16(PRODUCE), ctypes.c_size_t(len(codes)), errors
        )
        print("ready", flush=True)


if __name__ == "__main__":
    serve()
