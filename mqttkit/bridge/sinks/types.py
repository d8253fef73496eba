"""What every sink is, and the batches and dead letters that it commits."""

from __future__ import annotations

import base64
import hashlib
import itertools
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from mqttkit.bridge.metric import Metric, Reason
from mqttkit.messages import Message

KEPT_BYTES = 65_536
"""Bytes of a refused payload that its dead letter keeps."""

MAX_TOPIC_KEPT = 1_024
"""Characters of a refused message's topic that its dead letter keeps."""

MAX_DETAIL = 300
"""Characters of a dead letter's explanation."""

_PROCESS = uuid.uuid4().hex
_numbers = itertools.count(1)


class DeadLetter(NamedTuple):
    """A message that is no metric, kept with the reason; the fields are the columns of every store."""

    topic: str
    """Bytes that are not UTF-8 are written \\xNN; cut after 1,024 characters."""
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
        """True where the payload was kept whole."""
        return self.size <= KEPT_BYTES

    @property
    def body(self) -> bytes:
        """The payload's kept bytes."""
        return base64.b64decode(self.payload)


class StoredLetter(NamedTuple):
    """A dead letter as it is in its store."""

    id: str
    """Names it in its store; a later letter's sorts behind it."""
    letter: DeadLetter


def dead_letter(message: Message, reason: Reason, detail: str, received_ms: int) -> DeadLetter:
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


@dataclass(frozen=True)
class Batch:
    """What is committed at once."""

    metrics: Sequence[Metric] = ()
    letters: Sequence[DeadLetter] = ()
    settles: Sequence[str] = ()
    """Dead letters in the store that this batch replaces: removed in the same transaction."""
    id: str = field(default_factory=lambda: f"{_PROCESS}-{next(_numbers)}")
    """The same at every try, so that a try whose answer was lost is not done twice. No other batch ever has it."""


class Committed(NamedTuple):
    """What became of a batch's metrics."""

    stored: int
    duplicate: int
    """Metrics whose (tenant, agent, dedupe_id) was there before."""


class DeadLetterStore(Protocol):
    """Read and clear dead letters; they are written by a sink's commit only."""

    def count(self) -> int:
        """Return how many there are."""
        ...

    def read(self, *, after: str = "", limit: int = 100) -> list[StoredLetter]:
        """Return letters in the order they came, those behind the one named `after`."""
        ...

    def get(self, letter_id: str) -> StoredLetter | None:
        """Return one letter."""
        ...

    def remove(self, ids: Sequence[str]) -> int:
        """Remove letters; return how many were there."""
        ...


class Sink(Protocol):
    """Where batches are committed. One thread at a time; every method may block.

    A commit that returns is durable as the sink's page says. One that raises SinkUnavailable is tried
    again with the same batch; SinkRefused means that the batch has a part which it will never take;
    SinkBroken stops the bridge. Idempotent on (tenant, agent, dedupe_id).
    """

    @property
    def name(self) -> str:
        """For logs; without secrets."""
        ...

    @property
    def letters(self) -> DeadLetterStore:
        """Where this sink keeps dead letters."""
        ...

    def open(self) -> None:
        """Connect and make what is missing; raise SinkUnavailable, SinkBroken or MissingPart."""
        ...

    def open_letters(self) -> None:
        """Open no more than `letters` needs, beside a bridge that may be running; raise as `open` does."""
        ...

    def probe(self) -> None:
        """Return if a commit would probably succeed; raise as `commit` does."""
        ...

    def commit(self, batch: Batch) -> Committed:
        """Store metrics and dead letters, all or nothing."""
        ...

    def close(self) -> None:
        """Let go; idempotent."""
        ...


@dataclass(frozen=True, kw_only=True)
class SinkOptions:
    """What a sink's address does not say."""

    stream: str = "mqttkit:metrics"
    """Redis: name of the stream."""
    list_name: str | None = None
    """Redis: push jobs onto this list instead of adding to the stream."""
    job: str = "StoreMetric"
    """Redis list: the job's name."""
    live: bool = True
    """Redis: publish each stored metric on metrics:{tenant_id}."""
    dedupe_window: int = 86_400
    """Seconds for which a dedupe_id is remembered where the rows themselves are not the memory."""
    dead_letter_limit: int = 1_000_000
    """Dead letters from which on no batch with another one is committed; the last batch may go beyond."""
    dead_letters: str | None = None
    """SQLite file of the ledger that the http and jsonl sinks keep beside them."""
    timeout: float = 5.0
    """Seconds for one answer of a server."""
    token: str | None = field(default=None, repr=False)
    """HTTP: bearer token."""
