"""The delivery promise as a state machine: what was acknowledged is durable, no matter what happens in between.

The pipeline and its SQLite sink are real; the broker is a model of MQTT 5's session (4.1, 4.4, 4.9): packet
identifiers that are used again, redelivery after a reconnect, and everything forgotten with the session.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from mqttkit.bridge.flow.intake import PipelineLimits
from mqttkit.bridge.flow.pipeline import Pipeline
from mqttkit.bridge.metric import MetricParser
from mqttkit.bridge.sinks.sqlite import SqliteSink
from mqttkit.bridge.sinks.types import Committed, MetricBatch, SinkOptions
from mqttkit.errors import SinkUnavailable
from mqttkit.messages import Message
from mqttkit.settings import BridgeSettings
from tests.support.bridges import TENANT, rows

RECEIVE_MAXIMUM = 6
BATCH = 3


class Crash(BaseException):
    """The process dies here."""


class Broker:
    """A persistent session with one subscription, as far as QoS 1 goes."""

    def __init__(self) -> None:
        self.epoch = 1
        self.queue: deque[int] = deque()
        self.flying: dict[int, int] = {}
        """Packet identifier to number, in the order sent."""
        self.acknowledged: set[int] = set()
        self.forgotten: set[int] = set()

    def deliver(self) -> list[Message]:
        """Send as much as Receive Maximum allows."""
        sent = []
        while self.queue and len(self.flying) < RECEIVE_MAXIMUM:
            mid = next(number for number in range(1, 100) if number not in self.flying)
            self.flying[mid] = self.queue.popleft()
            sent.append(message(self.flying[mid], mid, self.epoch))
        return sent

    def resume(self) -> list[Message]:
        """Take a new connection of the same session: what flies is sent again, in its order."""
        self.epoch += 1
        return [message(number, mid, self.epoch, dup=True) for mid, number in self.flying.items()]

    def forget(self) -> None:
        """Take a new connection, the session being lost."""
        self.epoch += 1
        self.forgotten |= {*self.queue, *self.flying.values()}
        self.queue.clear()
        self.flying.clear()

    def take_ack(self, mid: int) -> int:
        """Receive a PUBACK; return the number that it settles."""
        number = self.flying.pop(mid)
        self.acknowledged.add(number)
        return number


def message(number: int, mid: int, epoch: int, *, dup: bool = False) -> Message:
    """Every fifth number is no metric."""
    body = {"value": "poison" if number % 5 == 4 else number, "dedupe_id": f"d{number}"}
    return Message(f"metrics/{TENANT}/a/t", json.dumps(body).encode(), qos=1, mid=mid, dup=dup, epoch=epoch)


class Sink(SqliteSink):
    """SQLite that fails, or dies with the process, when told."""

    down = False
    die: str = ""

    def commit(self, batch: MetricBatch) -> Committed:
        if self.die == "before":
            raise Crash
        if self.down:
            raise SinkUnavailable("down")
        done = super().commit(batch)
        if self.die == "after":
            raise Crash
        return done


class Everyone:
    """A registry that knows all tenants."""

    def known(self, tenants: set[str]) -> set[str]:
        return tenants


class Delivery(RuleBasedStateMachine):
    """Publish, receive, commit, acknowledge, crash, reconnect, lose the session, in any order."""

    @initialize()
    def begin(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="mqttkit-machine-"))
        self.path = self.directory / "metrics.db"
        self.broker = Broker()
        self.published = 0
        self.start()

    def start(self) -> None:
        self.sink = Sink(str(self.path), SinkOptions())
        self.sink.open()
        self.pipeline = Pipeline(
            parser=MetricParser(BridgeSettings.topic, payload_limit=1_000),
            registry=Everyone(),
            sink=self.sink,
            acknowledge=self.acknowledge,
            limits=PipelineLimits(batch_size=BATCH, queue_messages=4 * RECEIVE_MAXIMUM),
        )

    def acknowledge(self, messages: Sequence[Message]) -> int:
        """What the client does: nothing for a connection that is gone; the PUBACK settles a durable number."""
        current = [one for one in messages if one.epoch == self.broker.epoch]
        for one in current:
            number = self.broker.take_ack(one.mid)
            assert self.is_durable(number), f"{number} was acknowledged and is not stored"
        return len(current)

    def is_durable(self, number: int) -> bool:
        """Ask the file, through a separate connection."""
        if number % 5 == 4:
            return any(f'"d{number}"' in body for body in self.letters())
        return bool(rows(self.path, f"SELECT 1 FROM metrics WHERE dedupe_id = 'd{number}'"))

    def letters(self) -> list[str]:
        return [stored.letter.body.decode() for stored in self.sink.letters.read(limit=10_000)]

    def crash(self) -> None:
        """Lose all memory, and connect again to the session."""
        self.sink.close()
        self.start()
        assert self.pipeline.intake.offer(self.broker.resume())

    def step(self) -> None:
        """One turn of the worker; a sink that is down ends in giving up, as at SIGTERM."""
        try:
            if self.sink.down and self.pipeline.intake.queued:
                self.pipeline.intake.stop()
            self.pipeline.step(0)
        except Crash:
            self.crash()
            return
        if self.pipeline.intake.stopped:
            self.crash()

    @rule(count=st.integers(1, 8))
    def publish(self, count: int) -> None:
        self.broker.queue.extend(range(self.published, self.published + count))
        self.published += count

    @rule()
    def receive(self) -> None:
        self.pipeline.intake.offer(self.broker.deliver())

    @rule()
    def work(self) -> None:
        self.step()

    @rule()
    @precondition(lambda self: self.pipeline.intake.queued >= BATCH)
    def look_ahead(self) -> None:
        """A batch is parsed early, as while another one is being committed."""
        self.pipeline.intake.begin_peek()
        self.pipeline.read_ahead.prepare_next()
        self.pipeline.intake.end_peek()

    @rule(when=st.sampled_from(["before", "after"]))
    @precondition(lambda self: self.pipeline.intake.queued)
    def die_in_commit(self, when: str) -> None:
        self.sink.die = when
        self.step()

    @rule()
    def die(self) -> None:
        self.crash()

    @rule(down=st.booleans())
    def sink_fails_or_mends(self, down: bool) -> None:
        self.sink.down = down

    @rule()
    def reconnect(self) -> None:
        again = self.broker.resume()
        self.pipeline.intake.reconnected(self.broker.epoch, session_present=True)
        assert self.pipeline.intake.offer(again)

    @rule()
    def lose_session(self) -> None:
        self.broker.forget()
        self.pipeline.intake.reconnected(self.broker.epoch, session_present=False)

    @invariant()
    def books_balance(self) -> None:
        if hasattr(self, "pipeline"):
            assert self.pipeline.books.balance().difference == 0
            assert self.pipeline.books.in_flight == self.pipeline.intake.queued

    def teardown(self) -> None:
        """After all repairs, every metric that the broker did not forget is stored once."""
        if not hasattr(self, "pipeline"):
            return
        self.sink.down, self.sink.die = False, ""
        for _ in range(self.published + 10):
            self.pipeline.intake.offer(self.broker.deliver())
            self.step()
        assert not self.broker.queue
        assert not self.broker.flying
        stored = [int(value) for (value,) in rows(self.path, "SELECT value FROM metrics")]
        assert len(stored) == len(set(stored))
        letters = self.letters()
        missing = {n for n in range(self.published) if n % 5 != 4} - set(stored) - self.broker.forgotten
        assert not missing
        for number in range(4, self.published, 5):
            assert number in self.broker.forgotten or any(f'"d{number}"' in body for body in letters)
        self.sink.close()
        shutil.rmtree(self.directory)


TestDelivery = Delivery.TestCase
TestDelivery.settings = settings(
    max_examples=40, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
