"""`make bench-bridge`: how fast, how late and how large the bridge is, with real mosquitto and Redis.

Everything shares the machine: broker, sink, bridge, and in the latency figures the publisher. Throughput is
that of working off what the broker has queued for the bridge, so that no publisher takes part in it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from mqttkit.client import MqttClient
from mqttkit.settings import BrokerSettings, LimitSettings, MqttSettings
from tests.benchmarks.bridge_report import Figure, machine, table, write_report
from tests.benchmarks.bridge_setup import (
    STREAM,
    TENANT,
    Setup,
    is_ready,
    payload,
    peak_resident,
    resident,
    topic,
    wait_for,
)

ROUNDS = 3
"""Bridge and plain script take turns: on a shared machine one round says little about their ratio."""

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


def work_off(setup: Setup, sink: str, count: int, stored: Callable[[], int]) -> tuple[float, int]:
    """Return metrics a second for what the broker has queued, and the bridge's peak memory in bytes."""
    setup.make_session()
    setup.queue(count)
    with setup.bridge(sink) as process:
        first = _first(stored)
        began, at_first = time.monotonic(), first
        wait_for(lambda: stored() >= count, 120 + count / 1_000, "everything to be stored")
        rate = (count - at_first) / (time.monotonic() - began)
        return rate, peak_resident(process.pid)


def redis_rate(setup: Setup, count: int) -> list[Figure]:
    """Measure the Redis stream and the plain script in turn; the figures are medians of the rounds."""
    with setup.store() as store:

        def stored() -> int:
            return int(store.xlen(STREAM))

        rates, memories, plains = [], [], []
        for _ in range(ROUNDS):
            setup.clear()
            rate, memory = work_off(setup, f"redis://127.0.0.1:{setup.redis}", count, stored)
            rates.append(rate)
            memories.append(memory)
            plains.append(plain_rate(setup, max(1_000, count // 10), stored))
    rate, plain = statistics.median(rates), statistics.median(plains)
    return [
        Figure("Redis stream, throughput", rate, "metrics/s", "30,000 or more"),
        Figure("plain script (paho, json, one redis-py call a message)", plain, "metrics/s", ""),
        Figure("Redis stream against the plain script", rate / plain, "times", "8 or more"),
        Figure("Redis stream, peak resident memory", max(memories) / 1e6, "MB", "under 60"),
    ]


def plain_rate(setup: Setup, count: int, stored: Callable[[], int]) -> float:
    """Return metrics a second of the plain script for what the broker has queued."""
    setup.clear()
    setup.make_session()
    setup.queue(count)
    script = subprocess.Popen([sys.executable, "-c", PLAIN, str(setup.broker), str(setup.redis), STREAM])
    try:
        first = _first(stored)
        began = time.monotonic()
        wait_for(lambda: stored() >= count, 600, "the plain script")
        return (count - first) / (time.monotonic() - began)
    finally:
        script.kill()
        script.wait()


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
        wait_for(lambda: is_ready(setup.health), 20, "the bridge")
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
        wait_for(lambda: is_ready(setup.health), 20, "the bridge")
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
            wait_for(lambda: _lag(setup, began, rate, seconds) <= rate / 5, 120, "the backlog to go")
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
            sizes.append(resident(process.pid))
    return [
        Figure(f"resident memory after {chunk:,} metrics", sizes[0] / 1e6, "MB", "under 60"),
        Figure(f"resident memory after {count:,} metrics", sizes[-1] / 1e6, "MB", "as before"),
    ]


def _first(stored: Callable[[], int]) -> int:
    """Wait for the first metrics and return how many there are."""
    wait_for(lambda: stored() > 0, 30, "the first metric")
    return stored()


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
    parser.add_argument("--write", metavar="PAGE", help="put the table into this page")
    parser.add_argument("--publish", nargs=3, metavar=("PORT", "RATE", "COUNT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.publish:
        publish_at(int(options.publish[0]), float(options.publish[1]), int(options.publish[2]))
        return
    figures = []
    for figure in measure(options.count, options.memory_count, options.outage):
        figures.append(figure)
        print(f"{figure.name}: {figure.value:,.1f} {figure.unit}", file=sys.stderr, flush=True)
    report = f"{machine()}\n\n{table(figures)}"
    print(report)
    if options.write:
        write_report(Path(options.write), report)


if __name__ == "__main__":
    main()
