"""Measure recordings, retained messages and the proxy: `make bench-record`."""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from mqttkit.bench.own_broker import own_broker
from mqttkit.client import MqttClient
from mqttkit.messages import Message
from mqttkit.proxy.server import Proxy
from mqttkit.publisher import Publisher
from mqttkit.recorder.editing import write_recording
from mqttkit.recorder.lines import Header, Recorded
from mqttkit.recorder.player import Player, PlayerOptions
from mqttkit.recorder.recorder import Recorder, RecorderOptions
from mqttkit.recorder.recording import Recording
from mqttkit.recorder.verification import Verification
from mqttkit.retained.changing import remove, restore, save_snapshot
from mqttkit.settings import BrokerSettings, LimitSettings, MqttSettings
from mqttkit.stop import Stop
from tests.benchmarks.figures import Figure, at_least, at_most, say

BATCH = 100
TOPICS = 1_000


def payload(number: int) -> bytes:
    """Return a payload as sensors send it."""
    return f'{{"sensor":{number % TOPICS},"value":{20 + number % 97 / 10},"sequence":{number}}}'.encode()


def stream(count: int) -> Iterator[Message]:
    """Yield messages on a thousand topics."""
    return (Message(f"site/{number % TOPICS}/value", payload(number)) for number in range(count))


def files(directory: Path, count: int) -> list[Figure]:
    """Write, read and seek without a broker."""
    path = directory / "files.jsonl.zst"
    entries = [Recorded(message, 1, number * 10_000) for number, message in enumerate(stream(count), 1)]
    begin, cpu = time.perf_counter(), time.process_time()
    write_recording(path, Header(1, 0, "none", 5, ("#",), 2), (), iter(entries))
    seconds, used = time.perf_counter() - begin, time.process_time() - cpu
    begin = time.perf_counter()
    with Recording(path) as recording:
        read = sum(1 for _ in recording.messages())
        reading = time.perf_counter() - begin
        times = []
        for number in range(20):
            begin = time.perf_counter()
            next(recording.messages(entries[number * count // 20].monotonic_ns))
            times.append(time.perf_counter() - begin)
        ratio = recording.summary().line_bytes / path.stat().st_size
    return [
        Figure(
            "write",
            count / seconds,
            "messages/s",
            detail=f"{used / count * 1e6:.1f} us CPU each, {ratio:.1f} times smaller",
        ),
        Figure("read", read / reading, "messages/s"),
        Figure("seek, median", statistics.median(times) * 1000, "ms"),
    ]


def publish(settings: MqttSettings, messages: Iterator[Message], rate: float) -> None:
    """Publish at a rate, in blocks of a hundredth of a second."""
    with MqttClient(settings) as client:
        client.connect()
        publisher, block, due = Publisher(client), list[Message](), time.monotonic()
        for message in messages:
            block.append(message)
            if len(block) >= rate / 100:
                publisher.send(block)
                block.clear()
                due += 0.01
                time.sleep(max(due - time.monotonic(), 0))
        publisher.send(block)
        publisher.finish(60)


def live(directory: Path, settings: MqttSettings, count: int, rate: float) -> list[Figure]:
    """Record from a broker, then replay and verify."""
    path, stop = directory / "live.jsonl.zst", Stop()
    with Recorder(settings, ["site/#"], RecorderOptions(path=path, count=count, seconds=count / rate * 4)) as recorder:
        sender = threading.Thread(target=publish, args=(settings, stream(count), rate))
        sender.start()
        totals = recorder.run(stop)
        sender.join()
    with MqttClient(settings) as client:
        client.connect()
        player = Player(client, PlayerOptions(speed=None))
        with Verification(settings, player.topics([path])) as verification:
            player.on_sent = verification.expect
            report = player.play([path], stop)
            found = verification.finish()
    return [
        at_most(f"dropped while recording {count:,} at {rate:,.0f}/s", totals.dropped, "messages", 1),
        at_least("recorded", totals.messages, "messages", count),
        Figure("replay with verification", report.sent / report.seconds, "messages/s"),
        at_least("verified equal", found.equal, "messages", count, found.text()),
    ]


def retained(directory: Path, settings: MqttSettings, count: int) -> list[Figure]:
    """Save, remove and restore retained messages."""
    with MqttClient(settings) as client:
        client.connect()
        publisher = Publisher(client)
        publisher.send(Message(f"r/{number}", payload(number), 0, True) for number in range(count))
        publisher.finish(60)
    path = directory / "retained.jsonl.zst"
    seconds = []
    steps: tuple[Callable[[], object], ...] = (
        lambda: save_snapshot(settings, ["r/#"], path, (1, 1)),
        lambda: remove(settings, path, ["r/#"]),
        lambda: restore(settings, path),
    )
    for step in steps:
        begin = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - begin)
    return [
        at_most(f"{name} {count:,} retained messages", taken, "s", 10)
        for name, taken in zip(("save", "remove", "restore"), seconds, strict=True)
    ]


def round_trips(settings: MqttSettings, count: int) -> float:
    """Return the median seconds of a publish at QoS 1 and its acknowledgement."""
    times = []
    with MqttClient(settings) as client:
        client.connect()
        for _ in range(count):
            begin = time.perf_counter()
            client.publish("p", b"x", qos=1).wait(5)
            times.append(time.perf_counter() - begin)
    return statistics.median(times)


def proxied(settings: MqttSettings, count: int) -> list[Figure]:
    """Publish through the proxy, and directly."""
    address = (settings.broker.host, settings.broker.port)
    with Proxy(address) as proxy:
        through = MqttSettings(broker=BrokerSettings(host="127.0.0.1", port=proxy.port), limits=settings.limits)
        added = statistics.median(round_trips(through, 500) - round_trips(settings, 500) for _ in range(3))
        begin = time.perf_counter()
        publish(through, stream(count), 1e9)
        rate = count / (time.perf_counter() - begin)
    return [
        at_most("round trip through the proxy, added", added * 1e6, "us", 300, "two packets: 150 each"),
        at_least("publish through the proxy", rate, "messages/s", 50_000),
    ]


def main() -> int:
    """Measure everything; return 1 if a goal is missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--count", type=int, default=1_000_000, help="messages of a recording (default 1,000,000)")
    parser.add_argument("--rate", type=float, default=50_000, help="messages a second while recording (default 50,000)")
    parser.add_argument("--retained", type=int, default=100_000, help="retained messages (default 100,000)")
    options = parser.parse_args()
    missed = False
    with tempfile.TemporaryDirectory() as name, own_broker() as broker:
        directory = Path(name)
        settings = MqttSettings(broker=broker, limits=LimitSettings(max_queued_messages=50_000))
        for figures in (
            files(directory, min(options.count, 300_000)),
            live(directory, settings, options.count, options.rate),
            retained(directory, settings, options.retained),
            proxied(settings, min(options.count, 300_000)),
        ):
            for figure in figures:
                say(str(figure))
                missed = missed or figure.met is False
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
