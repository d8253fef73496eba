"""A stand-in for bluepy's helper program: it speaks the helper's protocol and says what a script tells it to.

    bluepy-helper INTERFACE

reads commands, a line each, and answers `rsp=$mgmt`, `rsp=$stat`, `rsp=$scan` and `rsp=$err` lines whose
fields are joined by the byte 0x1e.
"""

from __future__ import annotations

import dataclasses
import json
import os
import select
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

SEPARATOR = "\x1e"
SUCCESS = f"rsp=$mgmt{SEPARATOR}code=$success"
BUSY = f"rsp=$mgmt{SEPARATOR}code=$busy"
SCANNING = f"rsp=$stat{SEPARATOR}state=$scan"
DISCONNECTED = f"rsp=$stat{SEPARATOR}state=$disc"
NO_MANAGEMENT = f"rsp=$err{SEPARATOR}code=$nomgmt"


def refusal(status: int, message: str) -> str:
    """Return the line that tells of a status of the kernel's management interface."""
    return SEPARATOR.join(("rsp=$mgmt", "code=$mgmterr", f"estat=h{status:X}", f"emsg='{message}"))


def report(address: str, rssi: int, data: bytes, *, kind: int = 1, flags: int = 0) -> str:
    """Return the line of one advertisement; `kind` 1 is public, 2 random; flag 4 is not connectable."""
    fields = ["rsp=$scan", f"addr=b{address.replace(':', '')}", f"type=h{kind:X}"]
    fields += [f"rssi=h{-rssi & 0xFFFFFFFF:X}", f"flag=h{flags:X}"]
    return SEPARATOR.join([*fields, *([f"d=b{data.hex()}"] if data else [])])


@dataclass(frozen=True)
class Run:
    """What the helper does in one run."""

    reports: Sequence[str] = ()
    """Lines said after the scan began, all in one write."""
    answers: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    """Command to the lines it is answered with, where that is not success; a refused `scan` works after `scanend`."""
    ends: bool = False
    """Exit after the reports."""
    closes: bool = False
    """Close the output after the reports, and stay."""
    exit_at_once: bool = False
    stubborn: bool = False
    """Heed neither `quit` nor the end of the input nor SIGTERM."""


@dataclass(frozen=True)
class Helper:
    """An installed stand-in."""

    path: Path
    """The program: give it to bluepy as its helper."""

    @property
    def log(self) -> list[list[str]]:
        """The arguments, process number, and then the commands of each run so far."""
        log = self.path.with_suffix(".log")
        lines = [line.split(" ", 1) for line in log.read_text().splitlines()] if log.exists() else []
        runs = list(dict.fromkeys(number for number, _ in lines))
        return [[text for number, text in lines if number == run] for run in runs]

    @property
    def running(self) -> list[int]:
        """The process numbers of runs that have not ended."""
        return [int(run[1]) for run in self.log if Path(f"/proc/{run[1]}").exists()]


def install(directory: Path, *runs: Run) -> Helper:
    """Make a program that does the first run when it is started first, and so on; the last one ever after."""
    directory.mkdir(parents=True, exist_ok=True)
    helper = Helper(directory / "bluepy-helper")
    script = helper.path.with_suffix(".json")
    script.write_text(json.dumps([dataclasses.asdict(run) for run in runs]))
    lines = (f"#!{sys.executable}", "import sys", f"sys.path.insert(0, {os.getcwd()!r})")
    main_line = f"from tests.support.bluepy_helper import main; main({str(helper.path)!r})"
    helper.path.write_text("\n".join((*lines, main_line)) + "\n")
    helper.path.chmod(0o755)
    return helper


def main(path: str) -> None:
    """Be the helper."""
    helper = Helper(Path(path))
    number = len(helper.log)
    runs = json.loads(helper.path.with_suffix(".json").read_text())
    run = Run(**runs[min(number, len(runs) - 1)])
    with helper.path.with_suffix(".log").open("a", buffering=1) as log:
        for text in (" ".join(sys.argv[1:]), str(os.getpid())):
            log.write(f"{number} {text}\n")
        if run.exit_at_once:
            sys.exit(127)
        if run.stubborn:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        say("# a stand-in for bluepy-helper")
        for line in sys.stdin:
            log.write(f"{number} {line.strip()}\n")
            obey(line.strip(), run)
    while run.stubborn:
        signal.pause()


def obey(command: str, run: Run) -> None:
    """Answer one command."""
    if command == "quit" and not run.stubborn:
        sys.exit(0)
    say(*run.answers.get(command, [SUCCESS]))
    if command.endswith("end"):
        run.answers.pop(command.removesuffix("end"), None)
    if command in ("scan", "pasv") and command not in run.answers:
        say(SCANNING, *run.reports)
        if run.closes:
            os.close(1)
        if run.ends:
            sys.exit(0)


def say(*lines: str) -> None:
    """Write the lines at once."""
    data = "".join(f"{line}\n" for line in lines).encode()
    while data:
        select.select([], [1], [])
        data = data[os.write(1, data) :]
