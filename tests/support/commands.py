"""Commands as real processes, with their pipes, signals and exit codes."""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from click.testing import CliRunner

from mqttkit.cli import cli
from tests.support.brokers import Mosquitto
from tests.support.clients import wait_until

MQTTKIT = (sys.executable, "-m", "mqttkit")


def mqttkit(
    *arguments: str, port: int | None = None, stdin: bytes = b"", seconds: float = 60.0, **options: Any
) -> subprocess.CompletedProcess[bytes]:
    """Run `mqttkit` to its end; `port` adds the address of a loopback broker."""
    place = () if port is None else ("-h", "127.0.0.1", "-p", str(port))
    return subprocess.run(
        [*MQTTKIT, *arguments, *place], input=stdin, capture_output=True, check=False, timeout=seconds, **options
    )


def invoke(*arguments: str, port: int | None = None, cwd: Path | None = None) -> subprocess.CompletedProcess[bytes]:
    """Run `mqttkit` to its end in this process, which is quicker: for tests of neither signals nor pipes."""
    place = () if port is None else ("-h", "127.0.0.1", "-p", str(port))
    before = Path.cwd()
    os.chdir(cwd or before)
    try:
        done = CliRunner().invoke(cli, [*arguments, *place], prog_name="mqttkit")
    finally:
        os.chdir(before)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return subprocess.CompletedProcess(arguments, done.exit_code, done.stdout_bytes, done.stderr_bytes)


@contextlib.contextmanager
def running(command: Sequence[str], **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command with pipes for stdout and stderr; kill what is left of it."""
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "bufsize": 0, **options}
    with subprocess.Popen(list(command), **pipes) as process:
        try:
            yield process
        finally:
            process.kill()


@contextlib.contextmanager
def subscribed(broker: Mosquitto, *arguments: str, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """Run `mqttkit sub`; the block begins once the broker has acknowledged the subscription."""
    identifier = f"sub-{uuid.uuid4().hex[:12]}"
    place = ("-h", "127.0.0.1", "-p", str(broker.port), "-i", identifier)
    with running((*MQTTKIT, "sub", *arguments, *place), **options) as process:
        wait_until(lambda: f"Sending SUBACK to {identifier}" in broker.log or process.poll() is not None)
        yield process


def read_lines(stream: IO[bytes] | None, count: int, seconds: float = 60.0) -> list[bytes]:
    """Return the next `count` lines of an unbuffered pipe, without line feeds; fail where they do not come."""
    assert stream is not None
    deadline = time.monotonic() + seconds
    data = b""
    while data.count(b"\n") < count:
        left = deadline - time.monotonic()
        assert left > 0 and select.select([stream], [], [], left)[0], f"only {data[-500:]!r} came"
        # byte by byte would be exact; a test reads no further than it waits for
        chunk = os.read(stream.fileno(), 65_536)
        assert chunk, f"ended after {data[-500:]!r}"
        data += chunk
    return data.split(b"\n")[:count]
