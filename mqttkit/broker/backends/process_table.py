"""Processes of this machine, identified by pid and start time, because the kernel reuses pids."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mqttkit.errors import LifecycleError
from mqttkit.files import write_secret

PROC = Path("/proc")
STOP_SECONDS = 10.0


@dataclass(frozen=True)
class ProcessId:
    """One process; a later process with the same pid is another one."""

    pid: int
    """Process id."""
    start: int
    """Clock ticks after boot at which it started (proc(5), stat field 22)."""

    @property
    def alive(self) -> bool:
        """Whether it still runs; a zombie does not."""
        return start_ticks(self.pid) == self.start

    @property
    def started(self) -> float:
        """Seconds since the epoch at which it started."""
        return _boot_time() + self.start / os.sysconf("SC_CLK_TCK")


def start_ticks(pid: int) -> int | None:
    """Return the start time of a live process in clock ticks after boot; None if it is gone or a zombie.

    A zombie with more than one thread is alive: its other threads still hold its files and sockets.
    """
    fields = _stat(pid)
    if fields is None or (fields[0] in "ZX" and int(fields[17]) <= 1):
        return None
    return int(fields[19])


def is_stopped(pid: int) -> bool:
    """Return whether a signal such as SIGSTOP has stopped the process."""
    fields = _stat(pid)
    return fields is not None and fields[0] in "Tt"


def identify(pid: int) -> ProcessId:
    """Return the identity of a process, even if it has ended and its parent has not waited for it yet.

    Raise `LifecycleError` if it is gone.
    """
    fields = _stat(pid)
    if fields is None:
        raise LifecycleError(f"process {pid} is gone")
    return ProcessId(pid, int(fields[19]))


def write_pid(path: Path, process: ProcessId) -> None:
    """Write the identity to a file."""
    write_secret(path, json.dumps({"pid": process.pid, "start": process.start}).encode())


def read_pid(path: Path) -> ProcessId | None:
    """Return the live process that the file names; None if it is gone or its pid was reused, or without a file."""
    try:
        values = json.loads(path.read_bytes())
        process = ProcessId(int(values["pid"]), int(values["start"]))
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
    return process if process.alive else None


def find_by_directory(directory: Path, owned: Callable[[list[str]], bool]) -> ProcessId | None:
    """Return a process whose working directory is `directory` and whose command line is `owned`.

    It finds a broker that a killed `up` left without a pid file.
    """
    wanted = os.path.realpath(directory)
    for entry in PROC.iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError, LifecycleError):
            if str((entry / "cwd").readlink()) == wanted and owned(command_line(int(entry.name))):
                return identify(int(entry.name))
    return None


def command_line(pid: int) -> list[str]:
    """Return a process's arguments; raise OSError."""
    return (PROC / str(pid) / "cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]


def stop(process: ProcessId, *, seconds: float = STOP_SECONDS) -> None:
    """Stop a process with SIGTERM, then with SIGKILL, and return when it is gone."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, number)
            os.kill(process.pid, signal.SIGCONT)  # a paused process would not receive it
        if wait_gone(process, seconds):
            return
    raise LifecycleError(f"process {process.pid} did not end, even after SIGKILL")


def wait_gone(process: ProcessId, seconds: float) -> bool:
    """Wait until the process is gone; False if it is not after `seconds`."""
    deadline = time.monotonic() + seconds
    while process.alive:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(process.pid, os.WNOHANG)
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def memory_bytes(pid: int) -> int:
    """Return a process's resident memory; raise OSError."""
    return int((PROC / str(pid) / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def cpu_seconds(pid: int) -> float:
    """Return the processor time that a process has used; raise `LifecycleError` if it is gone."""
    fields = _stat(pid)
    if fields is None:
        raise LifecycleError(f"process {pid} is gone")
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _stat(pid: int) -> list[str] | None:
    """Return the fields of /proc/PID/stat from the third (state) on: the name may contain spaces."""
    try:
        text = (PROC / str(pid) / "stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return text.rpartition(")")[2].split()


def _boot_time() -> float:
    for line in (PROC / "stat").read_text().splitlines():
        if line.startswith("btime "):
            return float(line.split()[1])
    raise LifecycleError("/proc/stat contains no boot time")
