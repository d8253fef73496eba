"""`make bench-bridge`: how fast, how late and how large the bridge is, with real mosquitto and Redis.

Everything shares the machine: broker, sink, bridge, and in the latency figures the publisher. Throughput is
that of working off what the broker has queued for the bridge, so that no publisher takes part in it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import shutil
import signal
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mqttkit.client import MqttClient
from mqttkit.errors import MissingPart, MqttkitError
from mqttkit.messages import Subscription
from mqttkit.settings import BrokerSettings, ClientSettings, LimitSettings, MqttSettings

TENANT = "6f1d7c1e-0000-4000-8000-000000000001"
SESSION = "bench-bridge"
STREAM = "mqttkit:metrics"
PLAIN = """
import json, sys, redis, paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
store = redis.Redis(port=int(sys.argv[2]))
def on_message(client, _, message):
    _, tenant, agent, name = message.topic.split("/")
    data = json.loads(message.payload)
    store.xadd(sys.argv[3], {"tenant_id": tenant, "agent_id": agent, "metric_name": name,
                             "value": data["value"], "dedupe_id": data["dedupe_id"]})
client = mqtt.Client(CallbackAPIVersion.VERSION2, "bench-bridge", clean_session=False)
client.on_message = on_message
client.max_inflight_messages_set(1000)
client.connect("127.0.0.1", int(sys.argv[1]))
client.subscribe("metrics/#", 1)
client.loop_forever()
"""
"""What one writes in an afternoon: paho, json, one redis-py call a message."""


@dataclass(frozen=True)
class Figure:
    """One line of the table."""

    name: str
    value: float
    unit: str
    goal: str
    """What it should be, for readers."""


@contextlib.contextmanager
def running(command: list[str], port: int, directory: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server and wait until it accepts on the port; stop it afterwards."""
    with (directory / "log").open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        _wait(lambda: _accepts(port), 10, command[0])
        yield process
    finally:
        process.send_signal(signal.SIGCONT)
        process.terminate()
        process.wait()


def free_port() -> int:
    """Return a free port of the loopback address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def need(program: str) -> str:
    """Return the program's path; raise MissingPart."""
    found = shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if found is None:
        raise MissingPart(f"{program} is not installed", hint=f"apt-get install {program}")
    return found


class Setup:
    """A broker, a Redis, and a bridge between them that can be started and stopped."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.broker, self.redis, self.health = free_port(), free_port(), free_port()
        self._stack = contextlib.ExitStack()
        (directory / "tenants.yaml").write_text(f"- {TENANT}\n", "utf-8")

    def __enter__(self) -> Setup:
        conf = self.directory / "mosquitto.conf"
        lines = [f"listener {self.broker} 127.0.0.1", "allow_anonymous true", "max_queued_messages 0"]
        conf.write_text("\n".join([*lines, *(["user root"] if os.geteuid() == 0 else [])]) + "\n", "utf-8")
        self._stack.enter_context(running([need("mosquitto"), "-c", str(conf)], self.broker, self.directory))
        self.start_redis()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def start_redis(self) -> subprocess.Popen[bytes]:
        """Start Redis, with an append-only file."""
        command = [need("redis-server"), "--port", str(self.redis), "--bind", "127.0.0.1", "--save", ""]
        command += ["--appendonly", "yes", "--dir", str(self.directory)]
        return self._stack.enter_context(running(command, self.redis, self.directory))

    @contextlib.contextmanager
    def bridge(self, sink: str, *options: str) -> Iterator[subprocess.Popen[bytes]]:
        """Run the bridge as a user would."""
        command = [sys.executable, "-m", "mqttkit", "bridge", "run", "-h", "127.0.0.1", "-p", str(self.broker)]
        command += ["--sink", sink, "--tenants", str(self.directory / "tenants.yaml"), "-i", SESSION, "--quiet"]
        command += ["--health-port", str(self.health), *options]
        environment = {**os.environ, "MQTTKIT_MQTT_CLIENT_RECEIVE_MAXIMUM": "2000"}
        environment |= {"MQTTKIT_BRIDGE_BATCH_SIZE": "1000"}
        process = subprocess.Popen(command, env=environment)
        try:
            yield process
        finally:
            process.terminate()
            process.wait()

    def client(self, **session: Any) -> MqttClient:
        """Return a client of the broker, not connected."""
        settings = MqttSettings(
            broker=BrokerSettings(host="127.0.0.1", port=self.broker),
            client=ClientSettings(**session),
            limits=LimitSettings(max_inflight=2_000, max_queued_messages=4_000),
        )
        return MqttClient(settings)

    def make_session(self) -> None:
        """Leave an empty session with its subscription at the broker, as if the bridge had gone away."""
        for clean in (True, False):
            with self.client(client_id=SESSION, clean_session=clean, session_expiry=3_600) as client:
                client.connect(timeout=10)
                if not clean:
                    client.subscribe(Subscription("metrics/#", qos=1))

    def queue(self, count: int, *, different: int | None = None) -> None:
        """Publish metrics that the broker queues for the session."""
        with self.client() as client:
            client.connect(timeout=10)
            for number in range(count):
                client.publish(topic(number), payload(number % (different or count)), qos=1, wait=60)
            client.flush(120)

    def clear(self) -> None:
        """Empty Redis."""
        with self.store() as store:
            store.flushall()

    def store(self) -> Any:
        """Return a client of the Redis."""
        import redis

        return redis.Redis(port=self.redis, decode_responses=True)


def topic(number: int) -> str:
    """Return the topic of a metric: a hundred agents with ten metrics each."""
    return f"metrics/{TENANT}/agent-{number % 100}/metric-{number % 10}"


def payload(number: int) -> bytes:
    """Return a payload as devices send it."""
    now = time.time_ns() // 1_000_000
    return b'{"value":%d.5,"timestamp":%d,"dedupe_id":"m-%09d","tags":{"unit":"C"}}' % (number, now, number)


def work_off(setup: Setup, sink: str, count: int, stored: Callable[[], int]) -> tuple[float, int]:
    """Return metrics a second for what the broker has queued, and the bridge's peak memory in bytes."""
    setup.make_session()
    setup.queue(count)
    with setup.bridge(sink) as process:
        first = _first(stored)
        began, at_first = time.monotonic(), first
        _wait(lambda: stored() >= count, 120 + count / 1_000, "everything to be stored")
        rate = (count - at_first) / (time.monotonic() - began)
        return rate, _peak_memory(process.pid)


def redis_rate(setup: Setup, count: int) -> list[Figure]:
    """Measure the Redis stream, and the plain script beside it."""
    setup.clear()
    with setup.store() as store:
        url = f"redis://127.0.0.1:{setup.redis}"
        rate, memory = work_off(setup, url, count, lambda: int(store.xlen(STREAM)))
        setup.clear()
        setup.make_session()
        few = max(1_000, count // 10)
        setup.queue(few)
        script = subprocess.Popen([sys.executable, "-c", PLAIN, str(setup.broker), str(setup.redis), STREAM])
        try:
            first = _first(lambda: int(store.xlen(STREAM)))
            began = time.monotonic()
            _wait(lambda: int(store.xlen(STREAM)) >= few, 600, "the plain script")
            plain = (few - first) / (time.monotonic() - began)
        finally:
            script.kill()
            script.wait()
    return [
        Figure("Redis stream, throughput", rate, "metrics/s", "30,000 or more"),
        Figure("plain script (paho, json, one redis-py call a message)", plain, "metrics/s", ""),
        Figure("Redis stream against the plain script", rate / plain, "times", "8 or more"),
        Figure("Redis stream, peak resident memory", memory / 1e6, "MB", "under 60"),
    ]


def sqlite_rate(setup: Setup, count: int) -> list[Figure]:
    """Measure the SQLite sink."""
    path = setup.directory / "metrics.db"

    def stored() -> int:
        if not path.exists():
            return 0
        with contextlib.closing(sqlite3.connect(path, timeout=30)) as database:
            try:
                return int(database.execute("SELECT max(rowid) FROM metrics").fetchone()[0] or 0)
            except sqlite3.OperationalError:
                return 0

    rate, memory = work_off(setup, f"sqlite:{path}", count, stored)
    return [
        Figure("SQLite, throughput", rate, "metrics/s", "30,000 or more"),
        Figure("SQLite, peak resident memory", memory / 1e6, "MB", "under 60"),
    ]


def latency(setup: Setup, rate: float, seconds: float) -> tuple[float, float]:
    """Return median and 99th percentile, milliseconds, from publish to the live event after the commit."""
    setup.clear()
    setup.make_session()
    found: list[float] = []
    expected = int(rate * seconds)
    with (
        setup.bridge(f"redis://127.0.0.1:{setup.redis}"),
        setup.store() as store,
        store.pubsub(ignore_subscribe_messages=True) as channel,
    ):
        channel.subscribe(f"metrics:{TENANT}")
        _wait(lambda: _is_ready(setup.health), 20, "the bridge")
        publisher = subprocess.Popen(
            [sys.executable, "-m", __spec__.name, "--publish", str(setup.broker), str(rate), str(expected)]
        )
        deadline = time.monotonic() + seconds + 30
        while len(found) < expected and time.monotonic() < deadline:
            message = channel.get_message(timeout=1.0)
            if message is not None:
                found.append(time.time() * 1000 - json.loads(message["data"])["timestamp_ms"])
        publisher.wait()
    settled = sorted(found[len(found) // 10 :])  # the first tenth warms up
    return statistics.median(settled), settled[int(len(settled) * 0.99)]


def publish_at(port: int, rate: float, count: int) -> None:
    """Publish metrics evenly, `rate` a second, each stamped when it is sent."""
    settings = MqttSettings(
        broker=BrokerSettings(host="127.0.0.1", port=port), limits=LimitSettings(max_inflight=2_000)
    )
    with MqttClient(settings) as client:
        client.connect(timeout=10)
        began = time.monotonic()
        for number in range(count):
            ahead = began + number / rate - time.monotonic()
            if ahead > 0.002 or rate < 100:
                time.sleep(max(0.0, ahead))
            client.publish(topic(number), payload(number), qos=1, wait=60)
        client.flush(60)


def outage(setup: Setup, rate: float, seconds: float) -> Figure:
    """Measure how long the backlog of a sink outage takes to work off, while publishing goes on."""
    setup.clear()
    setup.make_session()
    total = int(rate * (seconds + 60))
    with setup.store() as store, setup.bridge(f"redis://127.0.0.1:{setup.redis}", "--no-live"):
        _wait(lambda: _is_ready(setup.health), 20, "the bridge")
        store.config_set("appendfsync", "everysec")
        server = int(store.info("server")["process_id"])
        publisher = subprocess.Popen(
            [sys.executable, "-m", __spec__.name, "--publish", str(setup.broker), str(rate), str(total)]
        )
        try:
            time.sleep(3)
            os.kill(server, signal.SIGSTOP)
            time.sleep(seconds)
            os.kill(server, signal.SIGCONT)
            began = time.monotonic()
            _wait(lambda: _lag(setup, began, rate, seconds) <= rate / 5, 120, "the backlog to go")
            took = time.monotonic() - began
        finally:
            publisher.kill()
            publisher.wait()
    return Figure(f"catch-up after {seconds:.0f} s without sink at {rate:,.0f}/s", took, "s", "under 30")


def _lag(setup: Setup, began: float, rate: float, seconds: float) -> float:
    """Return about how many published metrics are not stored yet."""
    time.sleep(0.2)
    published = rate * (3 + seconds + time.monotonic() - began)
    with setup.store() as store:
        return published - int(store.xlen(STREAM))


def flat_memory(setup: Setup, count: int) -> list[Figure]:
    """Measure resident memory early and at the end of many metrics, most of them duplicates to spare the disk."""
    path = setup.directory / "flat.db"
    setup.make_session()
    sizes: list[int] = []
    chunk = min(count, 200_000)
    with setup.bridge(f"sqlite:{path}") as process:
        for start in range(0, count, chunk):
            setup.queue(min(chunk, count - start), different=50_000)
            sizes.append(_memory(process.pid))
    return [
        Figure(f"resident memory after {chunk:,} metrics", sizes[0] / 1e6, "MB", "under 60"),
        Figure(f"resident memory after {count:,} metrics", sizes[-1] / 1e6, "MB", "as before"),
    ]


def _first(stored: Callable[[], int]) -> int:
    """Wait for the first metrics and return how many there are."""
    _wait(lambda: stored() > 0, 30, "the first metric")
    return stored()


def _memory(pid: int, field: str = "VmRSS") -> int:
    status = Path(f"/proc/{pid}/status").read_text("utf-8")
    return int(status.split(f"{field}:")[1].split()[0]) * 1024


def _peak_memory(pid: int) -> int:
    return _memory(pid, "VmHWM")


def _is_ready(port: int) -> bool:
    import urllib.error
    import urllib.request

    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=2) as answer:
            return bool(answer.status == 200)
    except (OSError, urllib.error.URLError):
        return False


def _accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def _wait(condition: Callable[[], bool], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise MqttkitError(f"waited {seconds:.0f} s for {what}")
        threading.Event().wait(0.02)


def machine() -> str:
    """Return what the figures were measured on."""
    cpu = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.machine(),
    )
    mosquitto = subprocess.run([need("mosquitto"), "-h"], capture_output=True, text=True, check=False).stdout
    redis = subprocess.run([need("redis-server"), "--version"], capture_output=True, text=True, check=False).stdout
    python = platform.python_version()
    return (
        f"{os.cpu_count()} cores of {cpu}; Python {python}; {mosquitto.split(chr(10))[0]};"
        f" Redis {redis.split('v=')[1].split()[0]}; SQLite {sqlite3.sqlite_version}"
    )


def table(figures: list[Figure]) -> str:
    """Return the figures as a Markdown table."""
    lines = ["| what | measured | goal |", "| --- | --- | --- |"]
    for figure in figures:
        value = f"{figure.value:,.0f}" if figure.value >= 100 else f"{figure.value:.1f}"
        lines.append(f"| {figure.name} | {value} {figure.unit} | {figure.goal} |")
    return "\n".join(lines)


def measure(count: int, memory_count: int, outage_seconds: float) -> Iterator[Figure]:
    """Give one figure after the other."""
    with tempfile.TemporaryDirectory(prefix="mqttkit-bench-") as directory, Setup(Path(directory)) as setup:
        yield from redis_rate(setup, count)
        yield from sqlite_rate(setup, count)
        median, tail = latency(setup, 5_000, 10)
        yield Figure("publish to stored at 5,000/s, median", median, "ms", "")
        yield Figure("publish to stored at 5,000/s, 99th percentile", tail, "ms", "under 100")
        median, tail = latency(setup, 20, 10)
        yield Figure("publish to stored when idle (20/s), median", median, "ms", "under 10")
        yield Figure("publish to stored when idle (20/s), 99th percentile", tail, "ms", "")
        if outage_seconds:
            yield outage(setup, 5_000, outage_seconds)
        if memory_count:
            yield from flat_memory(setup, memory_count)


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description="Measure the bridge.")
    parser.add_argument("--count", type=int, default=300_000, help="metrics for throughput")
    parser.add_argument("--memory-count", type=int, default=10_000_000, help="metrics for flat memory; 0 leaves it out")
    parser.add_argument("--outage", type=float, default=60.0, help="seconds without sink; 0 leaves it out")
    parser.add_argument("--publish", nargs=3, metavar=("PORT", "RATE", "COUNT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.publish:
        publish_at(int(options.publish[0]), float(options.publish[1]), int(options.publish[2]))
        return
    figures = []
    for figure in measure(options.count, options.memory_count, options.outage):
        figures.append(figure)
        print(f"{figure.name}: {figure.value:,.1f} {figure.unit}", file=sys.stderr, flush=True)  # noqa: T201
    print(f"{machine()}\n\n{table(figures)}")  # noqa: T201


if __name__ == "__main__":
    main()
