"""The process that publishes: `python -m mqttkit.bench.feeder`, with commands on stdin and answers on stdout.

The settings pass through stdin, because other users can read the command line, and the settings contain a password.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict
from typing import IO, Any

from mqttkit.bench.plan import Plan, Sent
from mqttkit.errors import BrokerUnreachable, MqttkitError
from mqttkit.settings import MqttSettings
from mqttkit.stop import Stop

READY, GO = b"ready\n", b"go\n"


class Feeder:
    """The publishing process, as seen by the measuring one. A context manager that ends it."""

    def __init__(self, plan: Plan, settings: MqttSettings) -> None:
        self._plan, self._settings = plan, settings
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Feeder:
        command = [sys.executable, "-m", "mqttkit.bench.feeder"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._write(pickle.dumps((self._plan, self._settings)))
        return self

    def __exit__(self, *_: object) -> None:
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()

    def wait_ready(self) -> None:
        """Wait until its clients are connected; raise the error if one cannot connect."""
        line = self._read()
        if line != READY:
            raise _error(json.loads(line) if line else {})

    def go(self) -> None:
        """Start publishing."""
        self._write(GO)

    def stop(self) -> None:
        """Stop publishing; `result` returns the numbers."""
        assert self._process is not None
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()

    def result(self) -> Sent:
        """Wait until it has published everything; raise the error if it ended without a result."""
        line = self._read()
        found = json.loads(line) if line else {}
        if "messages" not in found:
            raise _error(found)
        return Sent(**{**found, "messages": tuple(found["messages"])})

    def _write(self, data: bytes) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(data)
            self._process.stdin.flush()

    def _read(self) -> bytes:
        assert self._process is not None
        assert self._process.stdout is not None
        return self._process.stdout.readline()


def _error(found: dict[str, Any]) -> MqttkitError:
    error = MqttkitError(found.get("error", "the publishing process ended"))
    error.exit_code = found.get("exit_code", BrokerUnreachable.exit_code)
    return error


def main() -> None:
    """Run the plan from stdin; the end of stdin stops it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process of the group; the parent decides
    logging.getLogger("mqttkit").setLevel(logging.CRITICAL)
    source, out = sys.stdin.buffer, sys.stdout.buffer
    plan, settings = pickle.load(source)  # noqa: S301  # our own parent wrote it
    try:
        with ExitStack() as stack:
            publish = _prepare(plan, settings, stack)
            _say(out, READY)
            if source.readline() == GO:
                stop = Stop()
                threading.Thread(target=stop_at_end, args=(source.fileno(), stop), daemon=True).start()
                _say(out, json.dumps(asdict(publish(stop))).encode() + b"\n")
    except MqttkitError as error:
        _say(out, json.dumps({"error": str(error), "exit_code": error.exit_code}).encode() + b"\n")


def _prepare(plan: Plan, settings: MqttSettings, stack: ExitStack) -> Callable[[Stop], Sent]:
    """Connect the clients; return the function that publishes."""
    if plan.scenario == "scan":
        return _prepare_scan(plan, settings, stack)
    from mqttkit.bench.fleet import Fleet
    from mqttkit.bench.publishing import LoadPublisher
    from mqttkit.bench.usage import allow_files

    allow_files(plan.publishers)
    fleet = stack.enter_context(Fleet(settings, name="pub-"))
    fleet.connect(plan.publishers, Stop(), rate=plan.connect_rate)
    return LoadPublisher(plan, fleet).run


def _prepare_scan(plan: Plan, settings: MqttSettings, stack: ExitStack) -> Callable[[Stop], Sent]:
    """Connect the scan publisher's client."""
    from mqttkit.bench.scan import NumberedReplay, publish_scan
    from mqttkit.client import MqttClient

    source = NumberedReplay(plan)
    client = MqttClient(settings, retry=False)
    stack.callback(client.close, flush=0)
    client.connect()
    return lambda stop: publish_scan(plan, client, source, stop)


def stop_at_end(source: int, stop: Stop) -> None:
    """Set `stop` at the end of the file descriptor `source`.

    It does not use the buffered stdin: the interpreter cannot exit while a thread reads from that.
    """
    while os.read(source, 1):
        pass
    stop.set()


def _say(out: IO[bytes], data: bytes) -> None:
    with contextlib.suppress(BrokenPipeError):
        out.write(data)
        out.flush()


if __name__ == "__main__":
    main()
