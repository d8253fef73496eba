"""The protocol of a sink, and the batches and dead letters that it commits."""

from __future__ import annotations

import base64
import hashlib
import itertools
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from mqttkit.bridge.metric import Metric, MetricRefusal
from mqttkit.errors import DeadLettersFull
from mqttkit.messages import Message

KEPT_BYTES = 65_536
"""Bytes of a refused payload that the dead letter keeps."""

MAX_TOPIC_KEPT = 1_024
"""Characters of a refused message's topic that the dead letter keeps."""

MAX_DETAIL = 300
"""Characters of a dead letter's explanation."""

LETTER_OVERHEAD = 400
"""Bytes of a dead letter besides its payload."""
STORE_BYTES = 10_000_000_000
"""Bytes of all dead letters in a store on disk, by default."""

_PROCESS = uuid.uuid4().hex
_numbers = itertools.count(1)


class DeadLetter(NamedTuple):
    """A message that is not a metric, with the reason. The fields are the columns of every store."""

    topic: str
    """Bytes that are not UTF-8 appear as \\xNN. Cut after 1,024 characters."""
    payload: str
    """Base64 of the payload's first 65,536 bytes."""
    size: int
    """Bytes of the whole payload."""
    sha256: str
    """Hexadecimal digest of the whole payload."""
    reason: str
    detail: str
    received_ms: int
    """Milliseconds since 1970 in UTC."""

    @property
    def whole(self) -> bool:
        """True if the whole payload was kept."""
        return self.size <= KEPT_BYTES

    @property
    def body(self) -> bytes:
        """The bytes of the payload that were kept."""
        return base64.b64decode(self.payload)


@dataclass(frozen=True)
class LetterLimit:
    """When a store has no room for more dead letters."""

    number: int
    """0: any number."""
    size: int
    """Bytes."""

    def reached(self, number: int, size: int) -> bool:
        """Return whether a store with so many letters, of so many bytes, is full."""
        return 0 < self.number <= number or size >= self.size

    def error(self, store: str) -> DeadLettersFull:
        """Return the error of a store that is full."""
        number = f"{self.number} letters or " if self.number else ""
        return DeadLettersFull(
            f"{store}: the dead letters have reached their limit, {number}{self.size:,} bytes",
            hint="List them: mqttkit bridge dead-letters list; make room: mqttkit bridge dead-letters purge",
        )


def letter_size(size: int) -> int:
    """Return approximately how many bytes a dead letter takes whose payload has `size` bytes."""
    return min(size, KEPT_BYTES) * 4 // 3 + LETTER_OVERHEAD


class StoredLetter(NamedTuple):
    """A dead letter in its store."""

    id: str
    """Identifier in the store. Later letters have higher identifiers."""
    letter: DeadLetter


def dead_letter(message: Message, reason: MetricRefusal, detail: str, received_ms: int) -> DeadLetter:
    """Return the dead letter of a message."""
    topic = message.topic_bytes.decode("utf-8", "backslashreplace").replace("\0", "\\x00")
    payload = message.payload
    return DeadLetter(
        topic if len(topic) <= MAX_TOPIC_KEPT else topic[:MAX_TOPIC_KEPT] + "…",
        base64.b64encode(payload[:KEPT_BYTES]).decode(),
        len(payload),
        hashlib.sha256(payload).hexdigest(),
        reason.value,
        detail.replace("\0", "\\x00").encode("utf-8", "backslashreplace").decode()[:MAX_DETAIL],
        received_ms,
    )


def own_batch_id() -> str:
    """Return a new identifier of a batch of this process."""
    return f"{_PROCESS}-{next(_numbers)}"


@dataclass(frozen=True)
class MetricBatch:
    """Metrics and dead letters that are committed in one transaction."""

    metrics: Sequence[Metric] = ()
    letters: Sequence[DeadLetter] = ()
    settles: Sequence[str] = ()
    """Identifiers of dead letters that this batch replaces. The sink removes them in the same transaction."""
    contents: Mapping[int, str] = field(default_factory=dict)
    """Identity, by topic and content, of the metrics whose payload has no dedupe_id. The key is the position. A metric
    that has this identity as its dedupe_id is a retained message, which each new subscription brings again."""
    id: str = field(default_factory=own_batch_id)
    """Unique, and the same at every attempt, so that an attempt whose answer was lost is not repeated."""


class Committed(NamedTuple):
    """How many metrics of a batch were stored."""

    stored: int
    duplicate: int
    """Metrics that were stored before under the same key."""


class NewMetrics(NamedTuple):
    """The metrics of a batch that are not known as retained messages."""

    metrics: Sequence[Metric]
    contents: Mapping[str, str]
    """By series: the content to remember, in the same transaction that stores the metrics."""


def without_replays(batch: MetricBatch, last: Callable[[Sequence[str]], dict[str, str]]) -> NewMetrics:
    """Leave out each retained message whose content is the last one that the sink has stored of its series.

    `last` returns the last content of each given series, without those that it does not know. A live metric is never
    left out: two equal readings are two readings.
    """
    if not batch.contents:
        return NewMetrics(batch.metrics, {})
    known = last(sorted({series(batch.metrics[position]) for position in batch.contents}))
    metrics: list[Metric] = []
    changed: dict[str, str] = {}
    for position, metric in enumerate(batch.metrics):
        content = batch.contents.get(position)
        if content is not None:
            name = series(metric)
            before = known.get(name)
            if metric.dedupe_id is not None and before is not None:
                if before == content:
                    continue
                metric = metric._replace(dedupe_id=None)  # noqa: PLW2901 - the same content, but after another one
            known[name] = changed[name] = content
        metrics.append(metric)
    return NewMetrics(metrics, changed)


def series(metric: Metric) -> str:
    """Return tenant, agent and name of a metric in one text."""
    return f"{metric.tenant_id}/{metric.agent_id}/{metric.metric_name}"


class DeadLetterStore(Protocol):
    """Read and remove dead letters. Only a sink's `commit` writes them."""

    def count(self) -> int:
        """Return how many there are."""
        ...

    def read(self, *, after: str = "", limit: int = 100) -> list[StoredLetter]:
        """Return letters in the order they were received, starting after the letter `after`."""
        ...

    def get(self, letter_id: str) -> StoredLetter | None:
        """Return one letter."""
        ...

    def remove(self, ids: Sequence[str]) -> int:
        """Remove letters; return how many were there."""
        ...


class Sink(Protocol):
    """Commits batches. Use it from one thread at a time; every method may block.

    When `commit` returns, the batch is durable. After SinkUnavailable the caller tries the same batch again.
    SinkRefused means that the sink will never accept some part of the batch. SinkBroken stops the bridge.
    """

    @property
    def name(self) -> str:
        """For logs; without secrets."""
        ...

    @property
    def target(self) -> str:
        """Stream, list, table or the like, if `name` does not say it; sets apart two sinks of one name."""
        ...

    @property
    def letters(self) -> DeadLetterStore:
        """The store of this sink's dead letters."""
        ...

    def open(self) -> None:
        """Connect and create missing tables; raise SinkUnavailable, SinkBroken or MissingPart."""
        ...

    def open_letters(self) -> None:
        """Open only what `letters` needs; a bridge may use the sink at the same time. Raise as `open` does."""
        ...

    def probe(self) -> None:
        """Check that a commit would probably succeed; raise as `commit` does."""
        ...

    def commit(self, batch: MetricBatch) -> Committed:
        """Store metrics and dead letters, all or nothing."""
        ...

    def close(self) -> None:
        """Close it; may be called twice."""
        ...


@dataclass(frozen=True, kw_only=True)
class HttpOptions:
    """How the http sink authenticates and sends. It reads a file again when the file changes."""

    token_file: str | None = None
    """File with the bearer token in its first line."""
    authorization: str = "Bearer"
    """Word before the token in the header Authorization."""
    headers_file: str | None = None
    """File with one header per line: Name: value."""
    user: str | None = None
    """User for basic authentication."""
    password_file: str | None = None
    ca_file: str | None = None
    """PEM file with the authorities to trust; by default those of the system."""
    cert_file: str | None = None
    """PEM file with the client certificate."""
    key_file: str | None = None
    gzip: bool = False
    """Compress the body."""

    def files(self) -> list[str]:
        """Return the files that are set."""
        named = (
            self.token_file,
            self.headers_file,
            self.password_file,
            self.ca_file,
            self.cert_file,
            self.key_file,
        )
        return [path for path in named if path is not None]


@dataclass(frozen=True, kw_only=True)
class SinkOptions:
    """Settings of a sink that are not in its address."""

    stream: str = "mqttkit:metrics"
    """Redis: name of the stream."""
    list_name: str | None = None
    """Redis: push jobs onto this list instead of adding to the stream."""
    job: str = "StoreMetric"
    """Redis list: the job's name."""
    job_format: str = "mqttkit"
    """Redis list: form of the jobs, one of JOB_FORMATS, or file:PATH of a template."""
    durability: str = "server"
    """Redis: server (as appendfsync says), replica (WAIT) or fsync (WAITAOF)."""
    live: bool = True
    """Redis: publish each stored metric on metrics:{tenant_id}."""
    table: str = "metrics"
    """PostgreSQL: table of the metrics, with its schema if it has one."""
    columns: str | None = None
    """PostgreSQL: names of its columns, as FIELD=COLUMN,…"""
    hypertable: bool = True
    """PostgreSQL: create the table as a hypertable if TimescaleDB is there."""
    keep: float | None = None
    """PostgreSQL: seconds after which metrics are removed, by their time stamp."""
    dedupe_window: int = 86_400
    """Seconds for which Redis, hypertables and ledgers remember a dedupe_id. Other tables find it in their rows."""
    dead_letter_limit: int = 0
    """Once the store has this many dead letters, a batch with another one waits. The last batch may exceed it. 0: any
    number."""
    dead_letter_bytes: int | None = None
    """The same for the bytes of the letters. None: 10 GB, and 1 GB in Redis, which keeps them in memory."""
    dead_letters: str | None = None
    """SQLite file for the ledger, with the dead letters: all sinks but SQLite, PostgreSQL and Redis."""
    timeout: float = 5.0
    """Seconds that one commit may take at a server."""
    password_file: str | None = None
    """PostgreSQL, Redis, NATS and Kafka: file with the password in its first line, read for each new connection."""
    http: HttpOptions = HttpOptions()
    """HTTP: credentials, headers, certificates, compression."""

    def letter_limit(self, default_bytes: int = STORE_BYTES) -> LetterLimit:
        """Return when the store of dead letters is full."""
        return LetterLimit(self.dead_letter_limit, self.dead_letter_bytes or default_bytes)
