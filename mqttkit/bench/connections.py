"""Many idle clients in one process: memory and threads per client."""

from __future__ import annotations

import resource
import time
from contextlib import ExitStack

from mqttkit.bench.feeder import numbered
from mqttkit.bench.plan import Plan
from mqttkit.bench.report.result import BenchResult
from mqttkit.bench.usage import peak_memory, private_memory, threads
from mqttkit.client import MqttClient
from mqttkit.errors import Interrupted, MqttkitError, UsageError
from mqttkit.settings import MqttSettings
from mqttkit.stop import Stop

FILES_A_CLIENT = 3
"""The connection, and the socket pair that wakes its thread."""
SPARE_FILES = 100
FIRST = 10
"""Clients that connect before the measurement; they load the modules that all clients share."""


def allow_files(clients: int) -> None:
    """Raise the limit of open files for this number of clients; raise UsageError if the system forbids it."""
    needed = clients * FILES_A_CLIENT + SPARE_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and needed > hard:
        raise UsageError(f"{clients} clients need {needed} open files; the limit is {hard}", hint="See: ulimit -Hn")
    if soft != resource.RLIM_INFINITY and needed > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


def run_connections(plan: Plan, settings: MqttSettings, stop: Stop) -> BenchResult:
    """Connect `plan.subscribers` clients, keep them for `plan.duration` seconds, and measure memory and threads."""
    allow_files(plan.subscribers + FIRST)
    result = BenchResult(plan)
    with ExitStack() as stack:
        clients: list[MqttClient] = []
        marks = []
        try:
            for target in (0, plan.subscribers // 2, plan.subscribers):
                began = time.monotonic()
                _connect(clients, target + FIRST, settings, stack, stop)
                marks.append((private_memory(), threads(), time.monotonic() - began))
            stop.wait(plan.duration)
        except MqttkitError as error:
            if not clients:
                raise
            result.partial, result.exit_code = f"after {len(clients)} clients: {error}", error.exit_code
        gone = sum(not client.connected for client in clients)
        result.metrics["clients"] = len(clients)
        result.metrics["lost"] = gone
        if len(marks) == 3:
            _add_costs(result, marks)
        result.metrics["memory"] = peak_memory() / (1024 * 1024)
    if stop.is_set and not result.partial:
        result.partial, result.exit_code = "interrupted", Interrupted.exit_code
    return result


def _connect(clients: list[MqttClient], target: int, settings: MqttSettings, stack: ExitStack, stop: Stop) -> None:
    while len(clients) < target and not stop.is_set:
        client = MqttClient(numbered(settings, f"{len(clients)}"), retry=False)
        stack.callback(client.close, flush=0)
        client.connect()
        clients.append(client)


def _add_costs(result: BenchResult, marks: list[tuple[int, int, float]]) -> None:
    """Add the cost per client; `marks` are (private memory, threads, seconds) with none, half and all clients."""
    (memory_0, threads_0, _), (memory_1, _, seconds_1), (memory_2, threads_2, seconds_2) = marks
    count = result.plan.subscribers
    first, second = (memory_1 - memory_0) / (count // 2), (memory_2 - memory_1) / (count - count // 2)
    result.metrics["connect_rate"] = count / max(seconds_1 + seconds_2, 1e-6)
    result.metrics["memory_client"] = (memory_2 - memory_0) / count / 1024
    result.metrics["memory_growth"] = second / first if first > 0 else 0.0
    result.metrics["threads_client"] = (threads_2 - threads_0) / count
