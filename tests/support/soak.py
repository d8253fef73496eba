"""Prove that nothing is lost or stored twice: `make soak-bridge`. Seeded, so that each run can be repeated.

A publisher sends numbered metrics. Meanwhile the bridge is killed with SIGKILL, the broker is stopped with SIGTERM, and
the sink is interrupted, in random order and at random moments; each is started again. At the end each number must be
in the sink once, and the bridge's books must balance.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mqttkit.client import MqttClient
from mqttkit.messages import Outcome
from tests.support.bridges import BridgeProcess, bridge, metric_topic, mqtt_settings, wait_until
from tests.support.brokers import Mosquitto, mosquitto
from tests.support.soak_sinks import SoakSink, soak_sink

KINDS = ("sqlite", "redis", "postgresql", "jsonl", "http", "influx", "victoria", "nats", "kafka")
BROKER_LINES = ("log_dest none", "persistence true", "max_queued_messages 5000000")
CHUNK = 1_000
"""Metrics that the publisher sends before it looks at their outcomes."""
IDLE_SECONDS = 0.5
"""A bridge that has received nothing for so long is idle."""
LOST_SECONDS = 60.0
"""What has not arrived at an idle bridge after so long is lost."""
PATIENCE = 300.0
"""Seconds in which the publisher or the sink must make progress."""


@dataclass(frozen=True)
class SoakResult:
    """What a run has found."""

    kind: str
    seed: int
    count: int
    kills: dict[str, int]
    lost: int
    twice: int
    seconds: float

    @property
    def exact(self) -> bool:
        """True if each metric is stored once."""
        return self.lost == self.twice == 0

    def __str__(self) -> str:
        kills = " ".join(f"{name}={number}" for name, number in sorted(self.kills.items()))
        return (
            f"sink={self.kind} seed={self.seed} published={self.count} lost={self.lost} twice={self.twice}"
            f" kills: {kills} seconds={self.seconds:.0f}"
        )


class NumberPublisher:
    """Publishes the numbers from 0 up to `count` in a thread, each until the broker acknowledges it."""

    def __init__(self, port: int, count: int) -> None:
        self._client = MqttClient(mqtt_settings(port))
        self._count = count
        self.acknowledged = 0
        """Numbers that the broker has."""
        self.failure: BaseException | None = None
        self._thread = threading.Thread(target=self._guarded, daemon=True)

    def __enter__(self) -> NumberPublisher:
        self._client.connect(timeout=30)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close(flush=0.0)
        self._thread.join(60)

    def wait(self, number: int) -> None:
        """Wait until the broker has so many numbers."""
        before, patience = -1, time.monotonic() + PATIENCE
        while self.acknowledged < number:
            if self.failure is not None:
                raise self.failure
            if self.acknowledged != before:
                before, patience = self.acknowledged, time.monotonic() + PATIENCE
            assert time.monotonic() < patience, f"the publisher stands still at {before}"
            time.sleep(0.02)

    def _guarded(self) -> None:
        try:
            for start in range(0, self._count, CHUNK):
                self._publish(range(start, min(start + CHUNK, self._count)))
        except BaseException as error:
            self.failure = error

    def _publish(self, numbers: range) -> None:
        left = list(numbers)
        while left:
            assert self._client.wait_connected(PATIENCE), "the broker is away"
            sent = [(number, self._client.publish(*_metric(number), qos=1, wait=PATIENCE)) for number in left]
            left = [number for number, receipt in sent if receipt.wait(PATIENCE) is not Outcome.ACKNOWLEDGED]
            self.acknowledged += len(sent) - len(left)


def _metric(number: int) -> tuple[str, bytes]:
    topic = metric_topic(agent=f"agent-{number % 100}", metric=f"metric-{number % 10}")
    return topic, b'{"value":%d,"dedupe_id":"m-%d"}' % (number, number)


def soak(kind: str, directory: Path, *, count: int, kills: int, seed: int) -> SoakResult:
    """Run once and count; `kills` is the number of interruptions."""
    chance = random.Random(seed)  # reproducible on purpose
    order = list(_interruptions(kills, chance))
    moments = sorted(chance.randrange(count // 20, count) for _ in order)
    began = time.monotonic()
    with (
        mosquitto(directory / "mosquitto", *BROKER_LINES, f"persistence_location {directory}/") as broker,
        soak_sink(kind, directory) as sink,
        bridge(directory / "bridge", broker.port, sink=sink.address) as process,
        NumberPublisher(broker.port, count) as publisher,
    ):
        for what, moment in zip(order, moments, strict=True):
            publisher.wait(moment)
            _interrupt(what, broker, sink, process)
        publisher.wait(count)
        _wait_until_stored(process, sink, count)
        assert process.stop() == 0, process.log[-3000:]
        process.check_books()
        found = sink.stored(count)
    return SoakResult(
        kind=kind,
        seed=seed,
        count=count,
        kills={what: order.count(what) for what in set(order)},
        lost=found.count(0),
        twice=count - found.count(0) - found.count(1),
        seconds=time.monotonic() - began,
    )


def _interruptions(kills: int, chance: random.Random) -> Iterator[str]:
    """Yield bridge, broker and sink equally often, in random order."""
    names = [("bridge", "broker", "sink")[number % 3] for number in range(kills)]
    chance.shuffle(names)
    yield from names


def _interrupt(what: str, broker: Mosquitto, sink: SoakSink, process: BridgeProcess) -> None:
    if what == "bridge":
        process.kill()
        process.start(ready=False)
    elif what == "broker":
        broker.stop()
        broker.start()
    else:
        sink.interrupt()
    assert not process.died(), process.log[-3000:]


def _wait_until_stored(process: BridgeProcess, sink: SoakSink, count: int) -> None:
    """Wait until the sink has every number, or until the bridge has received nothing for a long time."""
    deadline = time.monotonic() + LOST_SECONDS
    while time.monotonic() < deadline:
        if _wait_until_idle(process):
            deadline = time.monotonic() + LOST_SECONDS
        if not sink.stored(count).count(0):
            return


def _wait_until_idle(process: BridgeProcess) -> bool:
    """Wait until the bridge is ready and receives no more; return True if it has received something meanwhile."""
    wait_until(process.is_ready, PATIENCE, "the bridge to be ready")
    first = before = _received(process)
    since = time.monotonic()
    while time.monotonic() - since < IDLE_SECONDS:
        time.sleep(0.1)
        if (received := _received(process)) != before or process.number("in_flight_messages"):
            before, since = received, time.monotonic()
    return before != first


def _received(process: BridgeProcess) -> float:
    """Return how many metrics the running bridge has received, without its own canaries."""
    return process.number("received_messages_total") - process.number("put_aside_messages_total")


def main() -> int:
    """Run once for each sink; return 1 if a metric was lost or stored twice."""
    parser = argparse.ArgumentParser(prog="tests.support.soak", description="Interrupt bridge, broker and sink.")
    parser.add_argument("--sink", choices=KINDS, action="append", help="which sinks; all by default")
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=None)
    options = parser.parse_args()
    exact = True
    for kind in options.sink or KINDS:
        seed = options.seed if options.seed is not None else random.SystemRandom().randrange(1_000_000)
        with tempfile.TemporaryDirectory(prefix="mqttkit-soak-") as directory:
            result = soak(kind, Path(directory), count=options.count, kills=options.kills, seed=seed)
        sys.stdout.write(f"{result}\n")
        sys.stdout.flush()
        exact = exact and result.exact
    return 0 if exact else 1


if __name__ == "__main__":
    sys.exit(main())
