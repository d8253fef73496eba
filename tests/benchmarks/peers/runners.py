"""How `make bench-peers` runs and measures each client."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from mqttkit.bench.usage import peak_memory
from mqttkit.client import MqttClient
from mqttkit.errors import MissingPart, MqttkitError
from mqttkit.messages import Message, Subscription
from mqttkit.settings import BrokerSettings, MqttSettings

TOPIC = "mqttkit-peers/topic"
SCRIPTS = Path(__file__).parent / "clients"
WINDOW = 1_000
"""Unacknowledged QoS 1 publishes that mqttkit, and a client whose name ends in " wide", may have."""
LIMIT_SECONDS = 60.0
"""Limit of one measurement."""
SETTLE_SECONDS = 0.3
"""Time in which a command subscribes; it does not report when it has."""
QUIET_SECONDS = 1.0
RECEIVED = "$SYS/broker/publish/messages/received"


@dataclass(frozen=True)
class Measured:
    """One measurement."""

    count: int
    seconds: float
    cpu: float
    """Seconds, user and kernel."""
    memory: int
    """Peak resident memory, bytes."""


class Bench:
    """Measures clients against one broker."""

    def __init__(self, python: str, broker: BrokerSettings, directory: Path, size: int) -> None:
        self._python, self._broker, self._directory, self._size = python, broker, directory, size
        self._programs = {name: _need(name) for name in ("mosquitto_pub", "mosquitto_sub")}

    def job(self, client: str, role: str, qos: int, count: int) -> Callable[[], Measured]:
        """Return the measurement of a library, or of mosquitto's commands, in one scenario."""
        if client != "mosquitto":
            return functools.partial(self._library, client, role, qos, count)
        if role == "sub":
            return self.command_sub("mosquitto", count, qos=qos)
        if qos:
            return functools.partial(self._acknowledged_pub, count)
        return self.command_pub("mosquitto", count)

    def command_pub(self, client: str, count: int) -> Callable[[], Measured]:
        """Return the measurement of the command `pub -l` at QoS 0, including its start."""
        return functools.partial(self._pub_command, client, count)

    def command_sub(self, client: str, count: int, *options: str, qos: int = 0) -> Callable[[], Measured]:
        """Return the measurement of the command `sub -C`: its start, and the time from the first message."""
        return functools.partial(self._sub_command, client, count, qos, options)

    def versions(self, libraries: Sequence[str]) -> dict[str, str]:
        """Return the versions of the measured libraries and commands."""
        code = "import importlib.metadata as m, sys; print(*[m.version(n) for n in sys.argv[1:]])"
        names = {"paho": "paho-mqtt"}
        wanted = [names.get(name, name) for name in libraries if name != "mqttkit"]
        done = subprocess.run([self._python, "-c", code, *wanted], check=True, capture_output=True, text=True)
        found = dict(zip(wanted, done.stdout.split(), strict=True))
        help_text = subprocess.run(
            [self._programs["mosquitto_pub"], "--help"], check=False, capture_output=True, text=True
        )
        found["mosquitto_pub, mosquitto_sub"] = help_text.stdout.partition("version ")[2].split()[0]
        return found

    # Libraries.

    def _library(self, client: str, role: str, qos: int, count: int) -> Measured:
        library, wide, _ = client.partition(" wide")
        python = sys.executable if library.startswith("mqttkit") else self._python
        script = str(SCRIPTS / f"peer_{library}.py")
        address = [self._broker.host, str(self._broker.port)]
        window = [str(WINDOW)] if wide or library.startswith("mqttkit") else []
        command = [python, script, role, str(qos), str(count), str(self._size), *address, *window]
        with (
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process,
            _killed_after(process, LIMIT_SECONDS),
        ):
            assert process.stdin is not None
            assert process.stdout is not None
            if process.stdout.readline() != "ready\n":
                raise MqttkitError("the client did not become ready")
            with self._feeding(qos, count) if role == "sub" else contextlib.nullcontext():
                process.stdin.write("\n")
                process.stdin.flush()
                line = process.stdout.readline()
        if not line:
            raise MqttkitError(f"the client did not end within {LIMIT_SECONDS:g} s")
        found = json.loads(line)
        return Measured(count, found["seconds"], found["cpu"], found["memory"])

    # Commands.

    def _pub_command(self, client: str, count: int) -> Measured:
        program = [self._programs["mosquitto_pub"]] if client == "mosquitto" else [*_mqttkit(), "pub"]
        with self._lines(count).open("rb") as lines:
            return _timed([*program, *self._address(), "-t", TOPIC, "-q", "0", "-l"], count, stdin=lines)

    def _sub_command(self, client: str, count: int, qos: int, options: tuple[str, ...]) -> Measured:
        program = [self._programs["mosquitto_sub"]] if client == "mosquitto" else [*_mqttkit(), "sub"]
        command = [*program, *self._address(), "-t", TOPIC, "-q", str(qos), "-C", str(count), *options]
        before, launched = self._connections(), time.perf_counter()
        with (
            (self._directory / "received").open("wb") as out,
            subprocess.Popen(command, stdout=out) as process,
            _killed_after(process, LIMIT_SECONDS),
        ):
            while self._connections() <= before and process.poll() is None:
                time.sleep(0.002)
            start = time.perf_counter() - launched
            time.sleep(SETTLE_SECONDS)
            began = time.perf_counter()
            with self._feeding(qos, count):
                found = _finish(process, count, began)
        return replace(found, seconds=found.seconds + start)

    def _connections(self) -> int:
        """Return the number of established TCP connections to the broker, counted at the client side."""
        port = f":{self._broker.port:04X}"
        rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        return sum(row[2].endswith(port) and row[3] == "01" for row in rows)

    def _acknowledged_pub(self, count: int) -> Measured:
        """Measure mosquitto_pub -q 1 -l to its last acknowledgement.

        At the end of stdin mosquitto_pub disconnects without waiting for acknowledgements, and drops most messages.
        So its stdin stays open, and the measurement ends at its last read or write. The broker's count proves that
        all messages arrived.
        """
        before = self._received()
        command = [self._programs["mosquitto_pub"], *self._address(), "-t", TOPIC, "-q", "1", "-l"]
        feed = ["sh", "-c", 'cat "$0"; read -r _', str(self._lines(count))]
        with subprocess.Popen(feed, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as source:
            began = time.perf_counter()
            with subprocess.Popen(command, stdin=source.stdout) as process:
                last, memory = _last_activity(process.pid, began), peak_memory(process.pid)
                process.send_signal(signal.SIGTERM)
                source.send_signal(signal.SIGTERM)
                measured = _finish(process, count, began, good=(0, -signal.SIGTERM))
        received = self._received(at_least=before + count) - before
        if received < count:
            raise MqttkitError(f"only {received} of {count} reached the broker")
        return Measured(count, last, measured.cpu, memory)

    def _received(self, *, at_least: int = 0) -> int:
        """Return the broker's count of publishes; wait up to three seconds until it is `at_least` that many."""
        seen: list[int] = []

        def note(messages: list[Message]) -> None:
            seen.extend(int(message.payload) for message in messages)

        with MqttClient(MqttSettings(broker=self._broker), on_messages=note) as client:
            client.connect(timeout=10)
            client.subscribe(Subscription(RECEIVED))
            deadline = time.monotonic() + 3.5
            while time.monotonic() < deadline and not (seen and at_least and seen[-1] >= at_least):
                if seen and not at_least and len(seen) > 1:
                    break
                time.sleep(0.02)
        return seen[-1] if seen else 0

    @contextlib.contextmanager
    def _feeding(self, qos: int, count: int) -> Iterator[None]:
        """Publish `count` messages with mosquitto_pub while the body runs, the same way for every client."""
        command = [self._programs["mosquitto_pub"], *self._address(), "-t", TOPIC, "-q", str(qos), "-l"]
        source = subprocess.Popen(
            ["sh", "-c", 'cat "$0"; read -r _', str(self._lines(count))], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        feeder = subprocess.Popen(command, stdin=source.stdout)
        try:
            yield
        finally:
            for process in (feeder, source):
                process.terminate()
                process.wait()
            for stream in (source.stdin, source.stdout):
                if stream is not None:
                    stream.close()

    def _address(self) -> list[str]:
        return ["-h", self._broker.host, "-p", str(self._broker.port)]

    def _lines(self, count: int) -> Path:
        """Return a file of `count` payloads, one per line."""
        path = self._directory / f"lines-{count}"
        if not path.exists():
            line = b"x" * self._size + b"\n"
            with path.open("wb") as file:
                for start in range(0, count, 1_000):
                    file.write(line * min(1_000, count - start))
        return path


def _mqttkit() -> list[str]:
    return [str(Path(sys.executable).with_name("mqttkit"))]


def _need(program: str) -> str:
    found = shutil.which(program)
    if found is None:
        raise MissingPart(f"{program} is not installed", hint="Try: sudo apt-get install mosquitto-clients")
    return found


def _timed(command: Sequence[str], count: int, stdin: BinaryIO) -> Measured:
    began = time.perf_counter()
    with subprocess.Popen(command, stdin=stdin) as process, _killed_after(process, LIMIT_SECONDS):
        return _finish(process, count, began)


def _finish(process: subprocess.Popen[bytes], count: int, began: float, *, good: tuple[int, ...] = (0,)) -> Measured:
    """Wait until a process ends; return its time, CPU time and memory."""
    ended, peaks = threading.Event(), [0]

    def watch() -> None:
        while not ended.wait(0.02):
            with contextlib.suppress(OSError):
                peaks[0] = peak_memory(process.pid) or peaks[0]

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    _, status, used = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - began
    ended.set()
    watcher.join()
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in good:
        raise MqttkitError(f"the client exited with {process.returncode}")
    return Measured(count, seconds, used.ru_utime + used.ru_stime, peaks[0])


def _last_activity(pid: int, began: float) -> float:
    """Return the seconds from `began` to the last read or write of a process."""
    path, last, since = Path(f"/proc/{pid}/io"), "", time.perf_counter()
    while (now := time.perf_counter()) - since < QUIET_SECONDS and now - began < LIMIT_SECONDS:
        found = path.read_text()
        if found != last:
            last, since = found, now
        time.sleep(0.002)
    return since - began


@contextlib.contextmanager
def _killed_after(process: subprocess.Popen[bytes] | subprocess.Popen[str], seconds: float) -> Iterator[None]:
    """Kill the process if it takes longer."""
    timer = threading.Timer(seconds, process.kill)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()
