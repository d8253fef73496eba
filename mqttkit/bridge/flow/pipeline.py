"""Parse, commit and acknowledge messages in batches.

One worker thread runs steps. A step takes a batch from the queue, parses it, commits it in one transaction, and
then acknowledges the messages in order of receipt. While a full batch is committed, the next one is parsed.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from mqttkit.bridge.flow.accounting import Books
from mqttkit.bridge.flow.histogram import Histogram
from mqttkit.bridge.flow.intake import Intake, PipelineLimits
from mqttkit.bridge.flow.letter_limits import LetterLog, LetterQuota
from mqttkit.bridge.flow.read_ahead import ReadAhead
from mqttkit.bridge.flow.route import Route
from mqttkit.bridge.metric import Metric, MetricParser, MetricRefusal, Refusal
from mqttkit.bridge.sinks.types import Committed, DeadLetter, MetricBatch, Sink, dead_letter
from mqttkit.bridge.tenants.types import TenantRegistry
from mqttkit.errors import BridgeError, RegistryUnavailable, SinkBroken, SinkRefused, SinkUnavailable
from mqttkit.messages import Message

logger = logging.getLogger(__name__)

RETRY_FIRST = 0.1
RETRY_LONGEST = 5.0
"""Seconds between attempts to commit: the wait doubles from the first to the longest."""


_CONTENT = "retained:"
"""Begins the identity of a message whose payload has no dedupe_id."""

T = TypeVar("T")


@dataclass
class _Prepared:
    """A parsed batch: each metric with the message it came from."""

    metrics: list[Metric] = field(default_factory=list)
    sources: list[Message] = field(default_factory=list)
    letters: list[DeadLetter] = field(default_factory=list)
    stored_letters: list[DeadLetter] | None = None
    """The letters within their tenant's quota; None before it was asked."""
    put_aside: list[Message] = field(default_factory=list)
    """Messages that need no commit, only an acknowledgement in its turn."""

    def add(self, message: Message, metrics: list[Metric]) -> None:
        """Add the metrics of a message; one without any needs no commit."""
        if metrics:
            self.add_metrics(message, metrics)
        else:
            self.put_aside.append(message)

    def add_metrics(self, message: Message, metrics: list[Metric]) -> None:
        self.metrics += metrics
        self.sources += [message] * len(metrics)

    def refuse(self, message: Message, reason: MetricRefusal, detail: str, now_ms: int) -> None:
        self.letters.append(dead_letter(message, reason, detail, now_ms))

    def refuse_tenants(self, unknown: set[str], now_ms: int) -> None:
        pairs = list(zip(self.metrics, self.sources, strict=True))
        refused = {id(message): (metric, message) for metric, message in pairs if metric.tenant_id in unknown}
        for metric, message in refused.values():
            self.refuse(message, MetricRefusal.TENANT_UNKNOWN, metric.tenant_id, now_ms)
        kept = [pair for pair in pairs if pair[0].tenant_id not in unknown]
        self.metrics = [metric for metric, _ in kept]
        self.sources = [message for _, message in kept]

    def contents(self) -> dict[int, str]:
        """Return the identity of each metric whose payload has no dedupe_id, by position."""
        found = {}
        for position, metric in enumerate(self.metrics):
            if metric.dedupe_id is None:
                found[position] = _content_id(self.sources[position])
            elif self.sources[position].retain and metric.dedupe_id.startswith(_CONTENT):
                found[position] = metric.dedupe_id
        return found

    def _admitted(self, letter: DeadLetter) -> list[DeadLetter]:
        return [letter] if any(letter is one for one in self.stored_letters or ()) else []

    def split(self, reason: MetricRefusal, detail: str, now_ms: int) -> list[_Prepared]:
        """Return the parts to commit instead of this batch, which the sink refused; the last part comes first."""
        if len(self.metrics) + len(self.letters) > 1:
            half = len(self.metrics) // 2
            first = _Prepared(self.metrics[:half], self.sources[:half])
            second = _Prepared(self.metrics[half:], self.sources[half:])
            letters = [_Prepared(letters=[one], stored_letters=self._admitted(one)) for one in self.letters]
            return [*letters, *(part for part in (second, first) if part.metrics)]
        if not self.metrics:
            raise SinkBroken(f"the sink refused a dead letter: {detail}")
        letter = dead_letter(self.sources[0], reason, detail, now_ms)
        return [_Prepared(letters=[letter])]


class Pipeline:
    """The core of the bridge, without a connection: offer messages to its intake and run steps."""

    def __init__(
        self,
        *,
        parser: MetricParser,
        registry: TenantRegistry,
        sink: Sink,
        acknowledge: Callable[[Sequence[Message]], int],
        limits: PipelineLimits,
        books: Books | None = None,
        pause: Callable[[bool], None] = lambda _paused: None,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        """`acknowledge` gets committed messages in order of receipt, and returns how many it acknowledged.

        See Intake for `pause`.
        """
        self._parser = parser
        self._registry = registry
        self._sink = sink
        self._acknowledge = acknowledge
        self._limits = limits
        self._now_ms = now_ms
        self.route: Route | None = None
        """Set it before the first step: messages for other outputs are acknowledged and not stored."""
        self.books = books or Books()
        self.intake = Intake(limits, self.books, pause)
        self.letter_quota = LetterQuota(limits.letter_quota, parser.template, drop=limits.drop_letters)
        self._letter_log = LetterLog()
        self.read_ahead = ReadAhead(self.intake, self._prepare)
        self.blocked = ""
        """Why the sink cannot commit now; empty if it can."""
        self.delay = Histogram()
        """Seconds from the reception of a message to its commit."""
        self.commit_duration = Histogram()
        """Seconds of each commit that succeeded."""
        self.progress = 0
        """Grows with each iteration of the worker's loop, including attempts of a failing commit."""
        self.skew_ms = 0
        """Time of receipt minus time stamp of the newest metric in the last batch."""

    def parser_counts(self) -> Mapping[str, int]:
        """Return the parser's own counters by name. Any thread may call it."""
        return self._parser.counts()

    def step(self, timeout: float) -> bool:
        """Commit and acknowledge one batch. Raise SinkBroken.

        Return False if no message arrived within `timeout` seconds, or if the bridge was stopped meanwhile.
        """
        self.progress += 1
        messages = self.intake.take(timeout)
        if not messages:
            return False
        prepared = self.read_ahead.take(messages) or self._persist(lambda: self._prepare(messages))
        if prepared is None:
            return False
        self._parser.accept()
        meanwhile = (
            self.read_ahead.while_committing() if len(messages) >= self._limits.batch_size else contextlib.nullcontext()
        )
        self.books.expand(len(prepared.metrics) + len(prepared.letters) + len(prepared.put_aside) - len(messages))
        with meanwhile:
            if (prepared.metrics or prepared.letters) and not self._commit_all(prepared):
                return False
            if not self._persist(self._save_parser):
                return False
            self.books.count_put_aside(len(prepared.put_aside))
            self._observe_delay()
            sent = self._acknowledge(messages)
        expected = _reliable(messages) - _reliable(prepared.put_aside)
        self.books.acknowledged += min(sent, expected)
        self.books.stale += max(0, expected - sent)
        return True

    def run(self, *, beat: float = 0.5, probe_after: float = 5.0) -> None:
        """Run steps until drained or stopped; raise SinkBroken.

        An idle iteration takes at most `beat` seconds. After `probe_after` idle seconds, probe the sink.
        """
        probed = time.monotonic()
        with contextlib.closing(self.read_ahead), contextlib.closing(self._parser):
            self._persist(self._parser.open)
            self._persist(self._sink.probe)
            while not self.intake.stopped:
                if self.step(beat):
                    probed = time.monotonic()
                elif self.intake.draining and not self.intake.queued:
                    return
                elif time.monotonic() - probed > probe_after:
                    self._persist(self._sink.probe)
                    probed = time.monotonic()

    def _prepare(self, messages: Sequence[Message]) -> _Prepared:
        now_ms = self._now_ms()
        prepared = _Prepared()
        self._parser.begin()
        for message in messages:
            if self._is_aside(message):
                prepared.put_aside.append(message)
                continue
            try:
                metrics = self._parse(message, now_ms)
            except Refusal as refusal:
                prepared.refuse(message, refusal.reason, refusal.detail, now_ms)
                prepared.add_metrics(message, refusal.metrics)
            except Exception as error:  # noqa: BLE001 - a bug in a handler must not stop the stream
                self._note_handler_error(error)
                prepared.refuse(message, MetricRefusal.HANDLER_ERROR, repr(error), now_ms)
            else:
                prepared.add(message, metrics)
        tenants = {metric.tenant_id for metric in prepared.metrics}
        unknown = tenants - self._registry.known(tenants) if tenants else set()
        if unknown:
            prepared.refuse_tenants(unknown, now_ms)
        if prepared.metrics:
            self.skew_ms = now_ms - max(metric.timestamp_ms for metric in prepared.metrics)
        return prepared

    def _is_aside(self, message: Message) -> bool:
        """Return whether the message needs no commit here."""
        if not message.payload or message.topic.startswith(self._parser.reserved):
            return True
        return self.route is not None and not self.route.takes(message.topic)

    def _parse(self, message: Message, now_ms: int) -> list[Metric]:
        if self.route is not None and self.route.is_unrouted(message.topic):
            raise Refusal(MetricRefusal.UNROUTED, "no output stores this metric")
        retained = _content_id(message) if message.retain else None
        try:
            metrics = self._parser.parse_message(message, now_ms, retained=retained)
        except Refusal as refusal:
            if self.route is not None:
                refusal.metrics = self.route.select(message.topic, refusal.metrics)
            raise
        return metrics if self.route is None else self.route.select(message.topic, metrics)

    def _commit_all(self, prepared: _Prepared) -> bool:
        """Commit the batch, or its halves if the sink refuses it. Return False if the bridge was stopped."""
        parts = [prepared]
        while parts:
            part = parts.pop()
            if part.stored_letters is None:
                part.stored_letters = self.letter_quota.admit(part.letters)
            contents = part.contents() if self._limits.retained_return else {}
            batch = MetricBatch(part.metrics, part.stored_letters, contents=contents)
            try:
                committed = self._persist(partial(self._commit, batch))
            except SinkRefused as error:
                parts.extend(part.split(MetricRefusal.SINK_REFUSED, str(error), self._now_ms()))
            except BridgeError:
                raise
            except Exception as error:  # noqa: BLE001 - as in _prepare
                self._note_handler_error(error)
                parts.extend(part.split(MetricRefusal.HANDLER_ERROR, repr(error), self._now_ms()))
            else:
                if committed is None:
                    return False
                reasons = Counter(letter.reason for letter in part.letters)
                self.books.settle(stored=committed.stored, duplicate=committed.duplicate, reasons=reasons)
                self._letter_log.add(part.letters)
        return True

    def _commit(self, batch: MetricBatch) -> Committed:
        began = time.monotonic()
        committed = self._sink.commit(batch)
        elapsed = time.monotonic() - began
        self.books.commit_seconds += elapsed
        self.commit_duration.observe(elapsed)
        return committed

    def _save_parser(self) -> bool:
        self._parser.save()
        return True

    def _observe_delay(self) -> None:
        now = time.monotonic()
        for arrived_at, count in self.intake.taken_arrivals:
            self.delay.observe(now - arrived_at, count)

    def _persist(self, action: Callable[[], T]) -> T | None:
        """Repeat `action` until it succeeds. Return None if the bridge is stopped first."""
        wait = RETRY_FIRST
        while True:
            try:
                result = action()
            except (SinkUnavailable, RegistryUnavailable) as error:
                self._note_blocked(error)
            else:
                if self.blocked:
                    logger.warning("the sink commits again; it failed with: %s", self.blocked)
                    self.blocked = ""
                return result
            if self.intake.wait_stopped(wait):
                return None
            wait = min(RETRY_LONGEST, wait * 2)
            self.progress += 1

    def _note_blocked(self, error: BridgeError) -> None:
        self.books.retries += 1
        if str(error) != self.blocked:
            logger.error("cannot commit, so nothing is acknowledged until this is fixed: %s", error)
        self.blocked = str(error)

    def _note_handler_error(self, error: Exception) -> None:
        self.books.note_handler_error()
        logger.error("unexpected exception; the message becomes a dead letter", exc_info=error)


def _reliable(messages: Sequence[Message]) -> int:
    """Return how many messages want an acknowledgement."""
    return sum(message.qos > 0 for message in messages)


def _content_id(message: Message) -> str:
    """Return an identity of topic and content, by which a retained message is known when it comes again."""
    digest = hashlib.sha256(message.topic_bytes + b"\0" + message.payload).hexdigest()
    return f"{_CONTENT}{digest[:40]}"
