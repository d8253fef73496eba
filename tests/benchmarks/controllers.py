"""The figures of the controllers: `python -m tests.benchmarks.controllers`.

It measures signing, deduplication, reports through one regional controller and their latency, and heartbeats of many
controllers.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import queue
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from mqttkit import __version__
from mqttkit.bench.own_broker import own_broker
from mqttkit.bench.usage import allow_files, cpu_seconds
from mqttkit.client import MqttClient
from mqttkit.controller import LocalController, RegionalController, Report
from mqttkit.controller.discovery.simulated_subnet import discover
from mqttkit.controller.messages.envelope import Envelope, new_message_id
from mqttkit.controller.messages.topics import Topics
from mqttkit.controller.security.gate import SignedCodec
from mqttkit.controller.security.keys import Key, KeyFile, KeyRing, generate
from mqttkit.controller.security.signing import sign, verify
from mqttkit.controller.status_book import StatusBook
from mqttkit.controller.store import Novelty, Store
from mqttkit.errors import MqttkitError
from mqttkit.messages import Message, Subscription
from mqttkit.settings import BrokerSettings, ControllerSettings, MqttSettings
from tests.benchmarks.figures import Figure, at_least, at_most, say
from tests.support.process_usage import private_memory, threads

DEVICES = 53
UNRESOLVED = 2_000
"""Unacknowledged reports that the feeder may have."""
WAIT_SECONDS = 120.0


def report() -> dict[str, Any]:
    """Return a discovery report of 53 devices."""
    found = discover("192.168.1.0/24", seed=1)
    return {**found, "devices": (found["devices"] * 2)[:DEVICES]}


def sign_and_verify(rounds: int = 20_000) -> list[Figure]:
    """Measure how long signing and verifying one report takes, in the best of twenty runs."""
    data = Envelope(
        message_id=new_message_id(),
        message_type="discovery.report",
        sender_id="lc-1",
        region="zone-A",
        timestamp=time.time_ns() // 1_000_000,
        sequence=1,
        payload=report(),
    ).to_bytes()
    figures = []
    for algorithm, goal in (("HS256", 60.0), ("Ed25519", 0.0)):
        key = generate("k", algorithm)
        ring = KeyRing().add(key)
        best = min(_signing_seconds(data, key, ring, rounds // 20) for _ in range(20)) * 1e6
        name, detail = f"sign and verify, {algorithm}", f"CPU, a report of {DEVICES} devices, {len(data)} bytes"
        figure = at_most(name, best, "µs", goal, detail) if goal else Figure(name, round(best, 2), "µs", detail=detail)
        figures.append(figure)
    return figures


def _signing_seconds(data: bytes, key: Key, ring: KeyRing, rounds: int) -> float:
    """Return the CPU time of one signing and verification, which other processes do not disturb."""
    began = time.process_time()
    for _ in range(rounds):
        verify(sign(data, "t", key), "t", ring)
    return (time.process_time() - began) / rounds


def deduplication(ids: int = 1_000_000) -> list[Figure]:
    """Measure how much a process and its file grow while they store `ids` message ids."""
    with tempfile.TemporaryDirectory(prefix="mqttkit-bench-") as directory:
        path = Path(directory) / "store.db"
        memory, seconds = _in_process(_remember, str(path), ids)
        size = sum(entry.stat().st_size for entry in Path(directory).iterdir())
    return [
        at_most(f"deduplication of {ids:,} ids, memory", memory / 1e6, "MB", 100),
        at_most(f"deduplication of {ids:,} ids, file", size / 1e6, "MB", 100),
        Figure("look up and store an id", round(seconds / ids * 1e6, 2), "µs"),
    ]


def _remember(answer: Any, path: str, ids: int) -> None:
    store = Store(Path(path), max_ids=ids)
    before, began = private_memory(), time.perf_counter()
    digest = os.urandom(16)
    last = ""
    for number in range(ids):
        last = new_message_id(number)
        if store.look_up(last, digest) is Novelty.NEW:
            store.remember(last, digest)
        if number % 500 == 499:
            store.commit()
    store.commit()
    seconds = time.perf_counter() - began
    if store.count() < ids or store.look_up(last, digest) is not Novelty.SAME:
        raise MqttkitError("the store lost an id")
    answer.put((private_memory() - before, seconds))
    store.close()


def reports(count: int = 20_000) -> list[Figure]:
    """Measure signed reports from one local controller to one regional controller through a broker."""
    with own_broker() as broker, tempfile.TemporaryDirectory(prefix="mqttkit-bench-") as directory:
        mqtt = MqttSettings(broker=broker)
        KeyFile(Path(directory) / "keys.json").save(KeyRing().add(generate("k", "HS256")).activate("k"))
        with RegionalController(_settings(directory, "rc-1"), mqtt) as regional:
            began: list[tuple[float, float]] = []

            def note_the_first(_report: Report) -> None:
                if not began:
                    began.append((time.perf_counter(), cpu_seconds()))

            regional.subscribe_to_discovery_reports(note_the_first)
            feeder = _start(_feed, directory, broker, count)
            try:
                _wait(lambda: regional.report_count >= count, time.monotonic() + WAIT_SECONDS)
                seconds, cpu = time.perf_counter() - began[0][0], cpu_seconds() - began[0][1]
                rate, cost = (count - 1) / seconds, cpu / (count - 1) * 1e6
            finally:
                feeder.join(30)
            counters = regional.status()["counters"]
    detail = f"{DEVICES} devices each, {cost:.0f} µs CPU per report in the regional controller, {counters}"
    return [at_least("signed reports through one regional controller", rate, "/s", 2_000, detail)]


def _feed(_answer: Any, directory: str, broker: BrokerSettings, count: int) -> None:
    """Publish reports as fast as the broker accepts them; runs in its own process."""
    content = report()
    with LocalController(_settings(directory, "lc-1"), MqttSettings(broker=broker)) as local:
        for _ in range(count):
            while local.unsent >= UNRESOLVED:
                time.sleep(0.001)
            local.publish_discovery_report(content)
        local.flush(WAIT_SECONDS)


def latency(count: int = 1_000, rate: float = 100.0) -> list[Figure]:
    """Measure how long a report takes to the handler, and to its receipt, at `rate` reports per second."""
    sent: dict[int, float] = {}
    handled: list[float] = []
    with own_broker() as broker, tempfile.TemporaryDirectory(prefix="mqttkit-bench-") as directory:
        mqtt, pause = MqttSettings(broker=broker), threading.Event()
        KeyFile(Path(directory) / "keys.json").save(KeyRing().add(generate("k", "HS256")).activate("k"))
        with (
            RegionalController(_settings(directory, "rc-1"), mqtt) as regional,
            LocalController(_settings(directory, "lc-1"), mqtt) as local,
        ):
            regional.subscribe_to_discovery_reports(
                lambda one: handled.append(time.perf_counter() - sent[one.payload["number"]])
            )
            content, answered = report(), []
            for number in range(count):
                sent[number] = time.perf_counter()
                promise = local.publish_discovery_report({**content, "number": number})
                if number % 10 == 0 and promise.wait(WAIT_SECONDS):
                    answered.append(time.perf_counter() - sent[number])
                pause.wait(max(0.0, 1 / rate - (time.perf_counter() - sent[number])))
            if not local.flush(WAIT_SECONDS):
                raise MqttkitError("the receipts did not arrive in time")
    detail = f"{count:,} reports of {DEVICES} devices, {rate:g} per second, both controllers in one process"
    return [
        Figure("report to handler, median", _percentile(handled, 50), "ms", detail=detail),
        Figure("report to handler, 99th percentile", _percentile(handled, 99), "ms"),
        Figure("report to receipt, median", _percentile(answered, 50), "ms"),
        Figure("report to receipt, 99th percentile", _percentile(answered, 99), "ms"),
    ]


def _percentile(seconds: list[float], percent: int) -> float:
    """Return a percentile in milliseconds."""
    ordered = sorted(seconds)
    return round(ordered[min(len(ordered) - 1, len(ordered) * percent // 100)] * 1_000, 2)


def heartbeats(count: int = 1_000, interval: float = 5.0, seconds: float = 15.0) -> list[Figure]:
    """Measure `count` controllers in this process, each a client with a will, and one client that watches them."""
    allow_files(count * 2)
    ring = KeyRing().add(generate("k", "HS256")).activate("k")
    codec, topics = SignedCodec(ring), Topics("bench")
    book, inbox = StatusBook(topics, codec), queue.SimpleQueue[Message]()
    settings = ControllerSettings(
        base="bench", transports=("mqtt",), heartbeat_interval=interval, keep_session=False, id="x"
    )
    with own_broker() as broker, ExitStack() as stack:
        mqtt = MqttSettings(broker=broker)
        watcher = stack.enter_context(MqttClient(mqtt, on_message=inbox.put))
        watcher.connect()
        watcher.subscribe(Subscription(topics.status_filter()))
        memory, running, began = private_memory(), threads(), time.monotonic()
        for number in range(count):
            one = LocalController(replace(settings, id=f"lc-{number}"), mqtt, codec=codec, store=Store())
            stack.callback(one.disconnect_mqtt, flush=0)
            one.connect_mqtt(timeout=0)
        heard, started = _hear(book, inbox, count, seconds), time.monotonic() - began
        cpu = cpu_seconds()
        beats = _count_beats(book, inbox, seconds)
        cost = (cpu_seconds() - cpu) / seconds * 100
        memory, running = private_memory() - memory, threads() - running
    detail = (
        f"every {interval:g} s; {started:.1f} s to start, {memory / 1e6:.0f} MB, {running} threads, {cost:.0f} % CPU"
    )
    return [
        at_least("controllers online in one process", heard, "", count, detail),
        at_least("heartbeats heard", beats / seconds, "/s", 0.9 * count / interval, f"{dict(book.refused)} refused"),
    ]


def _hear(book: StatusBook, inbox: queue.SimpleQueue[Message], count: int, seconds: float) -> int:
    """Wait until `count` controllers are online, or the time is over; return how many are."""
    deadline = time.monotonic() + seconds + WAIT_SECONDS
    while len(book.controllers) < count and time.monotonic() < deadline:
        _note(book, inbox)
    return sum(seen.state == "online" for seen in book.controllers.values())


def _count_beats(book: StatusBook, inbox: queue.SimpleQueue[Message], seconds: float) -> int:
    deadline, beats = time.monotonic() + seconds, 0
    while time.monotonic() < deadline:
        beats += _note(book, inbox)
    return beats


def _note(book: StatusBook, inbox: queue.SimpleQueue[Message]) -> bool:
    try:
        message = inbox.get(timeout=0.1)
    except queue.Empty:
        return False
    return book.note(message.topic, message.payload) is not None


def _settings(directory: str, name: str) -> ControllerSettings:
    key_file, state_file = f"{directory}/keys.json", f"{directory}/{name}.db"
    return ControllerSettings(id=name, transports=("mqtt",), key_file=key_file, state_file=state_file)


def _wait(holds: Callable[[], bool], deadline: float) -> None:
    pause = threading.Event()
    while not holds():
        if time.monotonic() > deadline:
            raise MqttkitError("the reports did not arrive in time")
        pause.wait(0.005)


def _start(target: Callable[..., None], *arguments: Any) -> Any:
    """Start a new Python process that runs `target`."""
    context = multiprocessing.get_context("spawn")
    answer = context.SimpleQueue()
    process = context.Process(target=target, args=(answer, *arguments), daemon=True)
    process.start()
    process.answer = answer  # type: ignore[attr-defined]  # kept alive as long as the process
    return process


def _in_process(target: Callable[..., None], *arguments: Any) -> Any:
    """Run `target` in its own process and return its answer; raise MqttkitError if it fails."""
    process = _start(target, *arguments)
    process.join(WAIT_SECONDS)
    if process.exitcode != 0:
        raise MqttkitError(f"a measuring process ended with {process.exitcode}")
    return process.answer.get()


MEASUREMENTS: dict[str, Callable[[], list[Figure]]] = {
    "signing": sign_and_verify,
    "deduplication": deduplication,
    "reports": reports,
    "latency": latency,
    "heartbeats": heartbeats,
}


def main(arguments: list[str] | None = None) -> int:
    """Measure and print the figures; return 1 if a goal is missed."""
    parser = argparse.ArgumentParser(
        prog="tests.benchmarks.controllers", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of {', '.join(MEASUREMENTS)} (default: all)")
    parser.add_argument("--json", action="store_true", help="print one JSON object per line")
    given = parser.parse_args(arguments)
    unknown = set(given.names) - set(MEASUREMENTS)
    if unknown:
        parser.error(f"no measurement {sorted(unknown)[0]!r}")
    where = f"mqttkit {__version__}, Python {platform.python_version()}, {platform.machine()}, {os.cpu_count()} CPUs"
    say(json.dumps({"machine": where}) if given.json else where)
    missed = 0
    for name in given.names or MEASUREMENTS:
        for figure in MEASUREMENTS[name]():
            missed += figure.met is False
            say(json.dumps(asdict(figure)) if given.json else str(figure))
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
