"""A pipeline with a real SQLite sink, without a connection."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mqttkit.bridge.flow.intake import PipelineLimits
from mqttkit.bridge.flow.pipeline import Pipeline
from mqttkit.bridge.metric import MetricParser
from mqttkit.bridge.sinks.sqlite import SqliteSink
from mqttkit.bridge.sinks.types import Committed, MetricBatch, SinkOptions
from mqttkit.errors import RegistryUnavailable, SinkRefused
from mqttkit.messages import Message
from mqttkit.settings import BridgeSettings

TENANT = "6f1d7c1e-0000-4000-8000-000000000001"
OTHER = "6f1d7c1e-0000-4000-8000-000000000002"


class Known:
    """A registry that knows one tenant, and may fail first."""

    failures = 0

    def known(self, tenants: set[str]) -> set[str]:
        if self.failures:
            self.failures -= 1
            raise RegistryUnavailable("down")
        return tenants & {TENANT}


class TroubledSink(SqliteSink):
    """SQLite, with errors raised on demand before the real commit."""

    def __init__(self, path: str) -> None:
        super().__init__(path, SinkOptions())
        self.errors: list[Exception] = []
        self.poison: float | None = None
        self.batches: list[MetricBatch] = []

    def commit(self, batch: MetricBatch) -> Committed:
        self.batches.append(batch)
        if self.errors:
            raise self.errors.pop()
        if any(metric.value == self.poison for metric in batch.metrics):
            raise SinkRefused("a value it will not take")
        return super().commit(batch)


class Bench:
    """A pipeline with a real SQLite sink, and the acknowledgements it sent."""

    def __init__(self, directory: Path, *, parser: MetricParser | None = None, **limits: float) -> None:
        self.sink = TroubledSink(str(directory / "metrics.db"))
        self.sink.open()
        self.registry = Known()
        self.acknowledged: list[int] = []
        self.pipeline = Pipeline(
            parser=parser or MetricParser(BridgeSettings.topic, payload_limit=1_000),
            registry=self.registry,
            sink=self.sink,
            acknowledge=self.acknowledge,
            limits=PipelineLimits(**limits),  # type: ignore[arg-type]
        )

    def acknowledge(self, messages: Sequence[Message]) -> int:
        self.acknowledged += [message.mid for message in messages if message.qos]
        return len([message for message in messages if message.qos])

    def offer(self, *messages: Message) -> bool:
        return self.pipeline.intake.offer(list(messages))

    def check(self, *, stored: int = 0, duplicate: int = 0, dead: int = 0, waiting: int = 0) -> None:
        balance = self.pipeline.books.balance()
        assert balance.difference == 0
        assert (balance.stored, balance.duplicate, balance.dead_lettered, balance.in_flight) == (
            stored,
            duplicate,
            dead,
            waiting,
        )


def message(
    number: int, payload: bytes | None = None, *, tenant: str = TENANT, qos: int = 1, **more: object
) -> Message:
    body = payload if payload is not None else b'{"value":%d,"dedupe_id":"d%d"}' % (number, number)
    return Message(f"metrics/{tenant}/a/t", body, qos=qos, mid=number, epoch=1, **more)  # type: ignore[arg-type]
