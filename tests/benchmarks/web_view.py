"""Messages through `mqttkit web` to a reader of its events: `python -m tests.benchmarks.web_view`.

A publisher sends 100,000 messages on 1,000 topics as fast as it can. One reader counts them in Python; with --browser,
Chromium counts them on the page.
"""

from __future__ import annotations

import argparse
import importlib
import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from mqttkit.bench.own_broker import own_broker
from mqttkit.client import MqttClient
from mqttkit.settings import BrokerSettings, MqttSettings
from tests.benchmarks.live_view import MIB, cpu_seconds
from tests.support.process_usage import private_memory

LIMIT_SECONDS = 60.0


def main() -> None:
    """Measure and print the figures."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--messages", type=int, default=100_000)
    parser.add_argument("--topics", type=int, default=1_000)
    parser.add_argument("--browser", action="store_true", help="count on the page, in headless Chromium")
    parser.add_argument("--publish", metavar="PORT", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.publish:
        _publish(given.publish, given.messages, given.topics)
        return
    arguments = ["--messages", str(given.messages), "--topics", str(given.topics)]
    with own_broker() as broker:
        serve = [sys.executable, "-m", "mqttkit", "web", "-h", "127.0.0.1", "-p", str(broker.port), "load/#"]
        publish = [sys.executable, "-m", "tests.benchmarks.web_view", *arguments, "--publish", str(broker.port)]
        with subprocess.Popen(serve, stdout=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdout is not None
                address = process.stdout.readline().strip()
                measure = _measure_on_the_page if given.browser else _measure_events
                measure(address, process.pid, publish, given.messages)
            finally:
                process.terminate()


def _measure_events(address: str, process_id: int, publish: list[str], messages: int) -> None:
    reader = EventReader(address)
    began, used = time.monotonic(), cpu_seconds(process_id)
    with subprocess.Popen(publish):
        started = 0.0
        while reader.messages < messages and time.monotonic() - began < LIMIT_SECONDS:
            reader.read()
            started = started or (time.monotonic() if reader.messages else 0.0)
        ended = time.monotonic()
    _report(messages, reader.messages, ended - started, process_id, cpu_seconds(process_id) - used)
    print(f"bytes of events       {reader.bytes / MIB:.1f} MiB")


def _measure_on_the_page(address: str, process_id: int, publish: list[str], messages: int) -> None:
    support = importlib.import_module("tests.support.web")  # without the checks of types that hold for benchmarks
    with support.browser() as driver:
        driver.get(address)
        received: Callable[[], Any] = lambda: driver.execute_script("return mqttkit.model.received")  # noqa: E731
        while driver.execute_script("return globalThis.mqttkit?.stream.state") != "live":
            time.sleep(0.1)
        began, used = time.monotonic(), cpu_seconds(process_id)
        with subprocess.Popen(publish):
            started = 0.0
            while received() < messages and time.monotonic() - began < LIMIT_SECONDS:
                started = started or (time.monotonic() if received() else 0.0)
                time.sleep(0.02)
            ended = time.monotonic()
        _report(messages, int(received()), ended - started, process_id, cpu_seconds(process_id) - used)


def _report(wanted: int, received: int, seconds: float, process_id: int, cpu: float) -> None:
    print(f"messages              {wanted:,}")
    print(f"lost                  {wanted - received:,}")
    print(f"seconds               {seconds:.2f}")
    print(f"messages/s            {received / seconds:,.0f}")
    print(f"CPU per message       {1e6 * cpu / wanted:.2f} us")
    print(f"private memory        {private_memory(process_id) / MIB:.1f} MiB")


class EventReader:
    """Reads the stream of events and counts messages."""

    def __init__(self, address: str) -> None:
        place, _, query = address.removeprefix("http://").partition("/")
        host, _, port = place.rpartition(":")
        self.messages = self.bytes = 0
        self._socket = socket.create_connection((host, int(port)))
        self._socket.sendall(f"GET /events{query} HTTP/1.1\r\nHost: {place}\r\n\r\n".encode())
        self._file = self._socket.makefile("rb", buffering=1024 * 1024)
        while self._file.readline().strip():
            pass
        while b"reset" not in self._file.readline():
            pass

    def read(self) -> None:
        """Read a line."""
        line = self._file.readline()
        self.bytes += len(line)
        if line.startswith(b'data: {"fresh"'):
            self.messages += sum(len(flat) // 4 for _, flat in json.loads(line[6:])["parts"])


def _publish(port: int, messages: int, topics: int) -> None:
    names = [f"load/{number % 10}/{number}" for number in range(topics)]
    with MqttClient(MqttSettings(broker=BrokerSettings(host="127.0.0.1", port=port))) as client:
        client.connect()
        for number in range(messages):
            client.publish(names[number % topics], b"%d" % number, wait=30)


if __name__ == "__main__":
    main()
