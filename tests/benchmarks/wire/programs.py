"""Run a command or the library against a bare peer, and measure it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from mqttkit.errors import MissingPart, MqttkitError
from tests.benchmarks.peers.runners import Measured
from tests.benchmarks.wire.peer import LIMIT_SECONDS, TOPIC, BarePeer, Exchange

HOST = "127.0.0.1"


class WireBench:
    """Measures with messages of one size; keeps its files in `directory`."""

    def __init__(self, directory: Path, size: int) -> None:
        self._directory, self._size = directory, size
        self._programs = {name: _find(name) for name in ("mosquitto_pub", "mosquitto_sub")}

    def pub(self, client: str, count: int, qos: int) -> Measured:
        """Measure `pub -l` with its start and end; `count` of the result is what the peer read."""
        program = [self._programs["mosquitto_pub"]] if client == "mosquitto" else [*_mqttkit(), "pub"]
        with BarePeer() as peer, self._lines(count).open("rb") as lines:
            command = [*program, "-h", HOST, "-p", str(peer.port), "-t", TOPIC, "-q", str(qos), "-l"]
            return _run(command, peer.read, stdin=lines)

    def sub(self, client: str, count: int, *options: str) -> Measured:
        """Measure `sub -C` with its start and end, its output in a file."""
        program = [self._programs["mosquitto_sub"]] if client == "mosquitto" else [*_mqttkit(), "sub"]
        with BarePeer() as peer, (self._directory / "received").open("wb") as out:
            command = [*program, "-h", HOST, "-p", str(peer.port), "-t", TOPIC, "-C", str(count), *options]
            found = _run(command, lambda: peer.write(count, self._size), stdout=out)
        lines = (self._directory / "received").stat().st_size // (self._size + 1)
        if not options and lines != count:
            raise MqttkitError(f"{client} printed {lines} of {count} messages")
        return found

    def library(self, work: str, count: int) -> Measured:
        """Measure one call of the library, from the connection to the last message."""
        with BarePeer() as peer:
            command = [sys.executable, "-m", "tests.benchmarks.wire.library", work, str(peer.port), str(count)]
            serve = (lambda: peer.write(count, self._size)) if work == "on_messages" else peer.read
            served = _served(serve)
            done = subprocess.run(
                [*command, str(self._size)], stdout=subprocess.PIPE, check=True, timeout=LIMIT_SECONDS
            )
            exchange = served()
        if exchange.messages != count:
            raise MqttkitError(f"{work}: the peer counted {exchange.messages} of {count} messages")
        found = json.loads(done.stdout)
        return Measured(count, found["seconds"], found["cpu"], 0)

    def _lines(self, count: int) -> Path:
        """Return a file with `count` lines."""
        path = self._directory / f"lines-{count}"
        if not path.exists():
            path.write_bytes((b"x" * self._size + b"\n") * count)
        return path


def _run(command: list[str], serve: Callable[[], Exchange], **streams: object) -> Measured:
    """Run a command to its end while `serve` answers it."""
    served = _served(serve)
    began = time.perf_counter()
    process = subprocess.Popen(command, **streams)  # type: ignore[call-overload]  # stdin or stdout
    timer = threading.Timer(LIMIT_SECONDS, process.kill)
    timer.start()
    try:
        _, status, usage = os.wait4(process.pid, 0)
    finally:
        timer.cancel()
    seconds = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise MqttkitError(f"{command[0]} ended with {process.returncode}")
    exchange = served()
    return Measured(exchange.messages, seconds, usage.ru_utime + usage.ru_stime, 0)


def _served(serve: Callable[[], Exchange]) -> Callable[[], Exchange]:
    """Serve in a thread; return a function that waits for its result."""
    found: list[Exchange] = []
    thread = threading.Thread(target=lambda: found.append(serve()), daemon=True)
    thread.start()

    def result() -> Exchange:
        thread.join(LIMIT_SECONDS)
        if not found:
            raise MqttkitError("the peer saw no end of the connection")
        return found[0]

    return result


def _find(name: str) -> str:
    program = shutil.which(name)
    if program is None:
        raise MissingPart(f"{name} is not installed", hint="Try: sudo apt-get install mosquitto-clients")
    return program


def _mqttkit() -> list[str]:
    return [sys.executable, "-m", "mqttkit"]
