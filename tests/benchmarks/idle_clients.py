"""Many idle clients of the library in one process: memory and threads per client."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

from mqttkit.bench.own_broker import own_broker
from mqttkit.bench.usage import allow_files
from mqttkit.client import MqttClient
from mqttkit.settings import MqttSettings
from tests.benchmarks.figures import Figure, at_most
from tests.support.process_usage import private_memory, threads

CLIENTS = 1_000
FILES_A_CLIENT = 3
"""The connection, and the socket pair that wakes its thread."""
FIRST = 10
"""Clients that connect before the measurement; they load the modules that all clients share."""


def measure_idle_clients(count: int = CLIENTS) -> Iterator[Figure]:
    """Connect clients to a temporary broker, and compare none, half and all of them."""
    allow_files(FILES_A_CLIENT * (count + FIRST))
    with own_broker() as broker, ExitStack() as stack:
        clients: list[MqttClient] = []
        marks: list[tuple[int, int]] = []
        for target in (FIRST, FIRST + count // 2, FIRST + count):
            while len(clients) < target:
                client = MqttClient(MqttSettings(broker=broker), retry=False)
                stack.callback(client.close, flush=0)
                client.connect()
                clients.append(client)
            marks.append((private_memory(), threads()))
        lost = sum(not client.connected for client in clients)
    (memory_0, threads_0), (memory_1, _), (memory_2, threads_2) = marks
    first, second = memory_1 - memory_0, memory_2 - memory_1
    yield at_most(f"{count} idle clients: lost", lost, "clients", 1)
    yield Figure(f"{count} idle clients: memory of each", (memory_2 - memory_0) / count / 1024, "KiB")
    growth = second / first if first > 0 else 0.0
    yield at_most(f"{count} idle clients: memory, second half compared with first", growth, "times", 1.3)
    yield at_most(f"{count} idle clients: threads of each", (threads_2 - threads_0) / count, "threads", 1.01)
