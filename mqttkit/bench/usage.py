"""What a process costs: CPU, memory, threads, as Linux tells it."""

from __future__ import annotations

import resource
from pathlib import Path


def cpu_seconds() -> float:
    """Return the CPU time of this process, user and kernel."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def peak_memory(pid: int | str = "self") -> int:
    """Return the largest resident set of a process so far, bytes.

    Not ru_maxrss: a child's begins with what its parent had when it was forked.
    """
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def private_memory(pid: int | str = "self") -> int:
    """Return the memory that a process shares with nobody (USS), bytes."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))


def threads() -> int:
    """Return the number of threads of this process."""
    return len(list(Path("/proc/self/task").iterdir()))
