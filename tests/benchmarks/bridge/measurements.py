"""Throughput, latency and memory of the bridge, with a real mosquitto and a real Redis.

The broker, the sink and the bridge share the machine; so does the publisher in the latency figures. For the
throughput figures the bridge drains a queue that the broker already holds, so no publisher takes CPU time.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from tests.benchmarks.bridge.publisher import start_publisher
from tests.benchmarks.bridge.setup import (
    STREAM,
    TENANT,
    Setup,
    is_ready,
    peak_resident,
    resident,
    wait_for,
)
from tests.benchmarks.figures import Figure, at_least, at_most

ROUNDS = 3
"""The bridge and the plain script take turns, because other work on the machine disturbs a single round."""

CATCH_UP_SECONDS = 300.0
"""How long to wait for a bridge that catches up; on a busy machine it may never reach the publisher."""

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
"""A script that a developer writes in an afternoon: paho, json, one redis-py call per message."""


def drain(setup: Setup, sink: str, count: int, stored: Callable[[], int]) -> tuple[float, int]:
    """Drain a queue of `count` metrics; return metrics per second and the bridge's peak memory in bytes."""
    setup.make_session()
    setup.queue(count)
    with setup.bridge(sink) as process:
        first = wait_for_first(stored)
        began, at_first = time.monotonic(), first
        wait_for(lambda: stored() >= count, 120 + count / 1_000, "everything to be stored")
        rate = (count - at_first) / (time.monotonic() - began)
        return rate, peak_resident(process.pid)


def redis_rate(setup: Setup, count: int) -> list[Figure]:
    """Measure the Redis stream and the plain script in turn; return the medians of the rounds."""
    with setup.store() as store:

        def stored() -> int:
            return int(store.xlen(STREAM))

        rates, memories, plains = [], [], []
        for _ in range(ROUNDS):
            setup.clear()
            rate, memory = drain(setup, f"redis://127.0.0.1:{setup.redis}", count, stored)
            rates.append(rate)
            memories.append(memory)
            plains.append(plain_rate(setup, max(1_000, count // 10), stored))
    rate, plain = statistics.median(rates), statistics.median(plains)
    return [
        at_least("Redis stream, throughput", rate, "metrics/s", 60_000),
        Figure("plain script (paho, json, one redis-py call per message)", plain, "metrics/s"),
        at_least("Redis stream compared with the plain script", rate / plain, "times", 10),
        at_most("Redis stream, peak resident memory", max(memories) / 1e6, "MB", 60),
    ]


def plain_rate(setup: Setup, count: int, stored: Callable[[], int]) -> float:
    """Drain a queue of `count` metrics with the plain script; return metrics per second."""
    setup.clear()
    setup.make_session()
    setup.queue(count)
    script = subprocess.Popen([sys.executable, "-c", PLAIN, str(setup.broker), str(setup.redis), STREAM])
    try:
        first = wait_for_first(stored)
        began = time.monotonic()
        wait_for(lambda: stored() >= count, 600, "the plain script")
        return (count - first) / (time.monotonic() - began)
    finally:
        script.kill()
        script.wait()


def sqlite_rate(setup: Setup, count: int) -> list[Figure]:
    """Measure throughput and memory of the SQLite sink."""
    path = setup.directory / "metrics.db"

    def stored() -> int:
        if not path.exists():
            return 0
        with contextlib.closing(sqlite3.connect(path, timeout=30)) as database:
            try:
                return int(database.execute("SELECT max(rowid) FROM metrics").fetchone()[0] or 0)
            except sqlite3.OperationalError:
                return 0

    rate, memory = drain(setup, f"sqlite:{path}", count, stored)
    return [
        at_least("SQLite, throughput", rate, "metrics/s", 45_000),
        at_most("SQLite, peak resident memory", memory / 1e6, "MB", 60),
    ]


def latency(setup: Setup, rate: float, seconds: float) -> tuple[float, float]:
    """Return median and 99th percentile in milliseconds, from the publish to the live event after the commit."""
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
        publisher = start_publisher(setup.broker, rate, expected)
        deadline = time.monotonic() + seconds + 30
        while len(found) < expected and time.monotonic() < deadline:
            message = channel.get_message(timeout=1.0)
            if message is not None:
                found.append(time.time() * 1000 - json.loads(message["data"])["timestamp_ms"])
        publisher.wait()
    settled = sorted(found[len(found) // 10 :])  # the first tenth warms up
    return statistics.median(settled), settled[int(len(settled) * 0.99)]


def outage(setup: Setup, rate: float, seconds: float) -> Figure:
    """Measure how long the bridge needs to catch up after a sink outage while a publisher keeps publishing."""
    setup.clear()
    setup.make_session()
    total = int(rate * (seconds + 60))
    with setup.store() as store, setup.bridge(f"redis://127.0.0.1:{setup.redis}", "--no-live"):
        wait_for(lambda: is_ready(setup.health), 20, "the bridge")
        store.config_set("appendfsync", "everysec")
        server = int(store.info("server")["process_id"])
        publisher = start_publisher(setup.broker, rate, total)
        try:
            time.sleep(3)
            os.kill(server, signal.SIGSTOP)
            time.sleep(seconds)
            os.kill(server, signal.SIGCONT)
            began = time.monotonic()
            took = 0.0
            while took < CATCH_UP_SECONDS and _lag(setup, began, rate, seconds, total) > rate / 5:
                took = time.monotonic() - began
        finally:
            publisher.kill()
            publisher.wait()
    return at_most(f"catch-up after {seconds:.0f} s without a sink at {rate:,.0f}/s", took, "s", 30)


def _lag(setup: Setup, began: float, rate: float, seconds: float, total: int) -> float:
    """Return approximately how many published metrics are not stored yet."""
    time.sleep(0.2)
    published = min(total, rate * (3 + seconds + time.monotonic() - began))
    with setup.store() as store:
        return published - int(store.xlen(STREAM))


def trimmed(setup: Setup, rate: float, seconds: float) -> list[Figure]:
    """Measure how many entries Redis holds that the worker has read, while metrics are ingested.

    The worker trims every 5 s, so these are a few seconds of ingest. Figures are the highest of a fifth of the time.
    """
    setup.clear()
    setup.make_session()
    database = setup.directory / "worker.db"
    lengths: list[int] = []
    with (
        setup.bridge(f"redis://127.0.0.1:{setup.redis}", "--no-live"),
        setup.worker(f"sqlite:{database}"),
        setup.store() as store,
    ):
        wait_for(lambda: is_ready(setup.health), 20, "the bridge")
        publisher = start_publisher(setup.broker, rate, int(rate * seconds))
        began = time.monotonic()
        while publisher.poll() is None:
            lengths.append(_read_entries(store))
            time.sleep(0.25)
        took = time.monotonic() - began
        wait_for(lambda: int(store.xlen(STREAM)) < rate, 120 + 10 * seconds, "the worker to trim the rest")
    fifth = max(1, len(lengths) // 5)
    first, last = max(lengths[fifth : 2 * fifth]), max(lengths[-fifth:])
    return [
        Figure(f"ingested for {took:.0f} s beside a worker", int(rate * seconds) / took, "metrics/s"),
        Figure("entries read and still in Redis, most in the second fifth of that time", first, "entries"),
        at_most("entries read and still in Redis, most in the last fifth", last, "entries", 15 * rate),
    ]


def _read_entries(store: Any) -> int:
    """Return how many entries of the stream the worker has read."""
    groups = store.xinfo_groups(STREAM) if store.exists(STREAM) else []
    return int(store.xlen(STREAM)) - int(groups[0]["lag"] or 0) if groups else 0


def flat_memory(setup: Setup, count: int) -> list[Figure]:
    """Measure resident memory after the first and the last metrics; most are duplicates, to spare the disk."""
    path = setup.directory / "flat.db"
    setup.make_session()
    sizes: list[int] = []
    chunk = min(count, 200_000)
    with setup.bridge(f"sqlite:{path}") as process:
        for start in range(0, count, chunk):
            setup.queue(min(chunk, count - start), different=50_000)
            sizes.append(resident(process.pid))
    return [
        at_most(f"resident memory after {chunk:,} metrics", sizes[0] / 1e6, "MB", 60),
        at_most(f"resident memory after {count:,} metrics", sizes[-1] / 1e6, "MB", 60),
    ]


def wait_for_first(stored: Callable[[], int]) -> int:
    """Wait until the first metrics are stored; return their number."""
    wait_for(lambda: stored() > 0, 30, "the first metric")
    return stored()
