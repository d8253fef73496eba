"""Private memory of a running publish-scan, and the start time of commands."""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

from mqttkit.bench.own_broker import own_broker
from mqttkit.bench.scan import SHIPPED
from mqttkit.client import MqttClient
from mqttkit.errors import MqttkitError
from mqttkit.messages import Message, Subscription
from mqttkit.settings import BrokerSettings, MqttSettings
from tests.benchmarks.figures import Figure, at_most
from tests.support.bluez import Radio, bluez, dbus_daemon
from tests.support.process_usage import private_memory

MIB = 1024 * 1024
ROUNDS = 30
MESSAGES = 300
"""Advertisements that publish-scan publishes before its memory is read."""
START_SECONDS = 30.0
BARE = "import sys; sys.stdout.write('x'); sys.stdout.flush(); sys.stdin.read()"


def measure_footprint() -> Iterator[Figure]:
    """Measure with a temporary broker. Times are medians of rounds in which the two commands take turns."""
    with own_broker() as broker, tempfile.TemporaryDirectory() as empty:
        address = ["-h", broker.host, "-p", str(broker.port)]
        python = _bare_python()
        yield Figure("private memory of bare Python", python / MIB, "MiB")
        replay = ("--source", f"replay:{SHIPPED}", "--speed", "10", "--loop")
        _publish_scan(broker, address, empty, *replay)  # compiles the modules
        more = (_publish_scan(broker, address, empty, *replay) - python) / MIB
        yield at_most("private memory of publish-scan above bare Python, replay", more, "MiB", 9)
        with dbus_daemon(Path(empty) / "dbus") as bus, bluez(bus, Radio(rate=100.0)):
            radio = ("--source", "bleak")
            _publish_scan(broker, address, empty, *radio, bus=bus)
            more = (_publish_scan(broker, address, empty, *radio, bus=bus) - python) / MIB
        yield at_most("private memory of publish-scan above bare Python, bleak", more, "MiB", 12)
        click = [sys.executable, "-c", "import click"]
        paho = [sys.executable, "-c", "import click, paho.mqtt.client"]
        ratio = _ratio(_mqttkit("--help"), click, empty)
        yield at_most("CPU time of mqttkit --help compared with import click", ratio, "times", 1.5)
        ratio = _ratio(_mqttkit("pub", "-m", "x", "t", *address), paho, empty)
        yield Figure("CPU time of mqttkit pub compared with import click, paho", ratio, "times")


def _mqttkit(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "mqttkit", *arguments]


def _environment(directory: str) -> dict[str, str]:
    """Return the environment without the user's settings and profiles, and with a cache of compiled modules.

    Compiling a module takes 4 MiB and more, which the process keeps. An installed mqttkit is compiled.
    """
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("MQTTKIT_") and name != "PYTHONDONTWRITEBYTECODE"
    }
    return {**kept, "XDG_STATE_HOME": directory, "XDG_CONFIG_HOME": directory, "PYTHONPYCACHEPREFIX": directory}


def _bare_python() -> int:
    with subprocess.Popen([sys.executable, "-c", BARE], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.read(1)
        found = private_memory(process.pid)
        process.communicate(b"")
    return found


def _publish_scan(broker: BrokerSettings, address: list[str], directory: str, *source: str, bus: str = "") -> int:
    """Return the private memory of publish-scan while it publishes; `bus` is the address of its system bus."""
    enough, count = threading.Event(), [0]

    def note(messages: list[Message]) -> None:
        count[0] += len(messages)
        if count[0] >= MESSAGES:
            enough.set()

    command = _mqttkit("publish-scan", *source, "--quiet", *address)
    environment = {**_environment(directory), "DBUS_SYSTEM_BUS_ADDRESS": bus}
    with MqttClient(MqttSettings(broker=broker), on_messages=note) as client:
        client.connect()
        client.subscribe(Subscription("ble/#"))
        with subprocess.Popen(command, env=environment, cwd=directory) as process:
            try:
                if not enough.wait(START_SECONDS):
                    raise MqttkitError(f"publish-scan sent {count[0]} messages in {START_SECONDS:g} s")
                return private_memory(process.pid)
            finally:
                process.terminate()


def _ratio(command: list[str], other: list[str], directory: str) -> float:
    """Return the median CPU time of `command` divided by that of `other`: wall time varies too much."""
    times: tuple[list[float], list[float]] = ([], [])
    for each in (command, other):  # compiles the modules
        subprocess.run(each, env=_environment(directory), cwd=directory, capture_output=True, check=False)
    for _ in range(ROUNDS):
        for taken, each in zip(times, (command, other), strict=True):
            before = _children_seconds()
            done = subprocess.run(
                each,
                env=_environment(directory),
                cwd=directory,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                check=False,
            )
            if done.returncode:
                raise MqttkitError(
                    f"{' '.join(each[1:])} exited with {done.returncode}: {done.stderr.decode().strip()}"
                )
            taken.append(_children_seconds() - before)
    return statistics.median(times[0]) / statistics.median(times[1])


def _children_seconds() -> float:
    """Return the CPU time of the processes that ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
