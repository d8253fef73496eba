"""CPU time, memory and threads of a process, as Linux reports them."""

from __future__ import annotations

import resource
from pathlib import Path


def cpu_seconds() -> float:
    """Return the CPU time of this process, user and kernel."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def peak_memory(pid: int | str = "self") -> int:
    """Return the peak resident memory of a process in bytes.

    ru_maxrss would start with the value of the parent at the fork.
    """
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def private_memory(pid: int | str = "self") -> int:
    """Return the private memory (USS) of a process in bytes."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))


def threads() -> int:
    """Return the number of threads of this process."""
    return len(list(Path("/proc/self/task").iterdir()))
