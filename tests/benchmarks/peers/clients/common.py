"""Command line, start signal and measurement of the peers' scripts."""

from __future__ import annotations

import json
import resource
import sys
import time
from dataclasses import dataclass
from pathlib import Path

TOPIC = "mqttkit-peers/topic"


@dataclass(frozen=True)
class Task:
    """The parsed command line."""

    role: str
    qos: int
    count: int
    payload: bytes
    host: str
    port: int
    window: int | None
    """Unacknowledged QoS 1 publishes at most; None for the library's default."""


def read_task() -> Task:
    """Read the command line."""
    role, qos, count, size, host, port, *window = sys.argv[1:]
    under_way = int(window[0]) if window else None
    return Task(role, int(qos), int(count), b"x" * int(size), host, int(port), under_way)


class Meter:
    """Measures from `start` to `report`."""

    def ready(self) -> None:
        """Print `ready`, and wait for the start."""
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        sys.stdin.readline()
        self._began, self._cpu = time.perf_counter(), _cpu()

    def report(self) -> None:
        """Print the measurement."""
        found = {
            "seconds": time.perf_counter() - self._began,
            "cpu": _cpu() - self._cpu,
            "memory": _peak_memory(),
        }
        sys.stdout.write(json.dumps(found) + "\n")
        sys.stdout.flush()


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _peak_memory() -> int:
    """Return the peak resident memory in bytes; ru_maxrss would start with the value of the parent."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024
