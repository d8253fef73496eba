"""Memory and threads of a process, as Linux reports them."""

from __future__ import annotations

from pathlib import Path


def private_memory(pid: int | str = "self") -> int:
    """Return the private memory (USS) of a process in bytes."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))


def threads() -> int:
    """Return the number of threads of this process."""
    return len(list(Path("/proc/self/task").iterdir()))
