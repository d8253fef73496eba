"""CPU time, peak memory and open files of a process, as Linux reports them."""

from __future__ import annotations

import resource
from pathlib import Path

from mqttkit.errors import UsageError

SPARE_FILES = 100


def allow_files(connections: int) -> None:
    """Raise the limit of open files for this number of connections; raise UsageError if the system forbids it."""
    needed = connections + SPARE_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and needed > hard:
        hint = "See: ulimit -Hn"
        raise UsageError(f"{connections} connections need {needed} open files; the limit is {hard}", hint=hint)
    if soft != resource.RLIM_INFINITY and needed > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


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
