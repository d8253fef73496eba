"""Commands on a pseudo-terminal."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import select
import struct
import subprocess
import termios
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import IO, Any

from tests.support.commands import MQTTKIT


class Terminal:
    """A command whose stdin, stdout and stderr are one terminal."""

    def __init__(self, process: subprocess.Popen[bytes], screen: int) -> None:
        self.process = process
        self.output = b""
        """Everything it has written so far."""
        self._screen = screen

    def type(self, keys: str) -> None:
        """Press keys."""
        os.write(self._screen, keys.encode())

    def wait_for(self, text: bytes, seconds: float = 30.0) -> bytes:
        """Read until `text` was written; return the output."""
        deadline = time.monotonic() + seconds
        while text not in self.output:
            assert self._read(deadline), f"ended or silent after {self.output[-500:]!r}"
        return self.output

    def finish(self, seconds: float = 30.0) -> bytes:
        """Read until the command ends; return the output."""
        deadline = time.monotonic() + seconds
        while self._read(deadline):
            pass
        self.process.wait(max(0.1, deadline - time.monotonic()))
        return self.output

    def _read(self, deadline: float) -> bool:
        if not select.select([self._screen], [], [], max(0.0, deadline - time.monotonic()))[0]:
            return False
        try:
            data = os.read(self._screen, 65_536)
        except OSError:  # Linux reports EIO once the command has closed the terminal
            return False
        self.output += data
        return bool(data)


@contextlib.contextmanager
def terminal_of(
    command: Sequence[str],
    environment: Mapping[str, str] = os.environ,
    columns: int = 80,
    rows: int = 24,
    stdin: IO[bytes] | None = None,
) -> Iterator[Terminal]:
    """Run a command on a terminal of this size. `stdin` replaces the terminal's."""
    screen, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    variables = {name: value for name, value in environment.items() if name != "COLUMNS"}
    streams: dict[str, Any] = {
        "stdin": terminal if stdin is None else stdin,
        "stdout": terminal,
        "stderr": terminal,
    }
    try:
        with subprocess.Popen(command, env={**variables, "TERM": "xterm-256color"}, **streams) as process:
            os.close(terminal)
            try:
                yield Terminal(process, screen)
            finally:
                process.kill()
    finally:
        os.close(screen)


@contextlib.contextmanager
def on_terminal(*arguments: str, port: int, columns: int = 80, stdin: IO[bytes] | None = None) -> Iterator[Terminal]:
    """Run `mqttkit` on a terminal, as a client of a loopback broker. `stdin` replaces the terminal's."""
    command = [*MQTTKIT, *arguments, "-h", "127.0.0.1", "-p", str(port)]
    with terminal_of(command, columns=columns, stdin=stdin) as terminal:
        yield terminal
