"""The memory of a sink without transactions: dedupe keys, dead letters, and how far the sink has written.

It is one SQLite file beside the sink. A sink writes its data first and then commits here. After a crash it takes
back data that was not committed here, or repeats the write under the same key.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from mqttkit.bridge.metric import Metric
from mqttkit.bridge.sinks.file_identity import file_changed, identity_of
from mqttkit.bridge.sinks.sqlite import (
    CONTENTS,
    DEAD_LETTERS,
    SqliteLetters,
    close_moved,
    connect,
    read_contents,
    transaction,
    translated,
    write_contents,
)
from mqttkit.bridge.sinks.types import DeadLetter, MetricBatch, NewMetrics, SinkOptions, series, without_replays

_TABLES = """
CREATE TABLE IF NOT EXISTS seen (key TEXT PRIMARY KEY, at INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS seen_at ON seen (at);
CREATE TABLE IF NOT EXISTS state (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS pending (batch TEXT PRIMARY KEY, body BLOB NOT NULL, keys TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS recent (batch TEXT PRIMARY KEY, start TEXT NOT NULL, at REAL NOT NULL, body BLOB NOT NULL);
"""
_PREFIX = "~"
"""Begins each key. Keys of earlier versions have no prefix and no metric name; they count until they expire."""
_PRUNE = "DELETE FROM seen WHERE at < ? AND instr(key, '/retained:') = 0"
"""Keys of retained messages stay: the broker sends such a message again at every new subscription."""
LOOKUP = 500
"""Keys to look up in one query."""
PRUNE_SECONDS = 60.0
"""Seconds between removals of keys older than the dedupe window."""


class PendingPost(NamedTuple):
    """A request that may have reached the server, and whose answer is not known yet."""

    batch: str
    """Identifier of the batch, and the Idempotency-Key."""
    body: bytes
    keys: tuple[str, ...]
    """Dedupe keys of its metrics."""


class RecentRequest(NamedTuple):
    """A request that the server has answered, and may forget if it is killed."""

    batch: str
    body: bytes


class Ledger:
    """Open until closed. Use it from one thread at a time."""

    def __init__(self, path: str, options: SinkOptions) -> None:
        self.path = path
        self.letters = SqliteLetters(path, options.letter_limit())
        self._file = Path(path).expanduser()
        self._window = options.dedupe_window
        self._database = connect(path, _TABLES, DEAD_LETTERS, CONTENTS)
        self._identity = identity_of(self._file)
        self._pruned = 0.0
        self._has_earlier_keys = self._look_for_earlier_keys()
        self.letters.attach(self._database)

    def new(self, batch: MetricBatch) -> NewMetrics:
        """Return the metrics whose key is not stored and does not appear earlier in the batch."""
        with translated(self.path):
            metrics, contents = without_replays(batch, lambda names: read_contents(self._database, names))
        keys = [None if metric.dedupe_id is None else dedupe_key(metric) for metric in metrics]
        stored = self._stored([key for key in keys if key is not None])
        found: list[Metric] = []
        for metric, key in zip(metrics, keys, strict=True):
            if key is not None:
                if key in stored or (self._has_earlier_keys and self._is_stored_earlier(metric)):
                    continue
                stored.add(key)
            found.append(metric)
        return NewMetrics(found, contents)

    def commit(
        self,
        new: NewMetrics,
        letters: Sequence[DeadLetter],
        settles: Sequence[str],
        *,
        batch: str = "",
        start: str = "",
        state: Mapping[str, int] | None = None,
    ) -> None:
        """Store the metrics' keys and contents, add and remove dead letters, and set values, in one transaction.

        The request of `batch` is not pending any more. With `start`, the server's start, it becomes a recent one.
        """
        now = int(time.time())
        keys = [dedupe_key(metric) for metric in new.metrics if metric.dedupe_id is not None]
        try:
            with transaction(self._database, self.path):
                self._add_keys(keys, now)
                write_contents(self._database, new.contents)
                self._database.executemany("INSERT OR REPLACE INTO state VALUES (?, ?)", (state or {}).items())
                self._end_pending(batch, start)
                self.letters.settle(settles)
                self.letters.add(letters)
                self._prune(now)
        except BaseException:
            self.letters.forget_count()
            raise

    def values(self) -> dict[str, int]:
        """Return the values that were set."""
        with translated(self.path):
            return dict(self._database.execute("SELECT name, value FROM state").fetchall())

    def pending_batches(self) -> list[str]:
        """Return the batches whose requests have no known answer, those of other processes included."""
        with translated(self.path):
            return [batch for (batch,) in self._database.execute("SELECT batch FROM pending ORDER BY batch")]

    def pending(self, batch: str) -> PendingPost | None:
        """Return the request of a batch, if its answer is not known."""
        query = "SELECT batch, body, keys FROM pending WHERE batch = ?"
        with translated(self.path):
            found = self._database.execute(query, (batch,)).fetchone()
        return PendingPost(found[0], found[1], _split(found[2])) if found else None

    def claim(self, post: PendingPost) -> bool:
        """Store a request before it is sent; return False if another request has, or has stored, one of its keys."""
        with transaction(self._database, self.path):
            texts = self._database.execute("SELECT keys FROM pending WHERE batch <> ?", (post.batch,))
            if any(not set(_split(text)).isdisjoint(post.keys) for (text,) in texts) or self._stored(post.keys):
                return False
            row = (post.batch, post.body, "\n".join(post.keys))
            self._database.execute("INSERT OR REPLACE INTO pending VALUES (?, ?, ?)", row)
        return True

    def settle_pending(self, post: PendingPost, *, stored: bool, start: str = "") -> None:
        """Forget a pending request; if the server has stored it, keep its dedupe keys. See `commit` for `start`."""
        with transaction(self._database, self.path):
            if stored:
                self._add_keys(post.keys, int(time.time()))
            self._end_pending(post.batch, start)

    def take_recent(self, before: float, start: str, limit: int) -> list[RecentRequest]:
        """Return recent requests answered before this time (seconds since 1970) and before the server's last start.

        They are not returned again for as long as one that was answered now: a sample just sent cannot be read yet.
        """
        query = "SELECT batch, body FROM recent WHERE at < ? AND start <> ? LIMIT ?"
        with transaction(self._database, self.path):
            found = [RecentRequest(*row) for row in self._database.execute(query, (before, start, limit))]
            rows = ((time.time(), request.batch) for request in found)
            self._database.executemany("UPDATE recent SET at = ? WHERE batch = ?", rows)
        return found

    def renew_recent(self, requests: Sequence[RecentRequest], start: str) -> None:
        """Record that the server, as it has run since this start, has these requests."""
        with transaction(self._database, self.path):
            rows = ((start, time.time(), request.batch) for request in requests)
            self._database.executemany("UPDATE recent SET start = ?, at = ? WHERE batch = ?", rows)

    def forget_recent(self, before: float, start: str) -> None:
        """Forget requests answered before this time by the server as it has run since this start."""
        with transaction(self._database, self.path):
            self._database.execute("DELETE FROM recent WHERE at < ? AND start = ?", (before, start))

    def probe(self) -> None:
        """Take the writer's lock, and check that the file is in place."""
        with transaction(self._database, self.path):
            self.check_file()

    def check_file(self) -> None:
        """Raise SinkUnavailable if the file was moved, removed or replaced; then the ledger must be closed."""
        if identity_of(self._file) != self._identity:
            raise file_changed(self._file)

    def close(self) -> None:
        """Close the file."""
        if identity_of(self._file) == self._identity:
            self._database.close()
        else:
            close_moved(self._database, self.path)

    def _end_pending(self, batch: str, start: str) -> None:
        if start:
            copy = "INSERT OR REPLACE INTO recent SELECT batch, ?, ?, body FROM pending WHERE batch = ?"
            self._database.execute(copy, (start, time.time(), batch))
        self._database.execute("DELETE FROM pending WHERE batch = ?", (batch,))

    def _add_keys(self, keys: Sequence[str], now: int) -> None:
        rows = ((key, now) for key in keys)
        self._database.executemany("INSERT INTO seen VALUES (?, ?) ON CONFLICT DO NOTHING", rows)

    def _stored(self, keys: Sequence[str]) -> set[str]:
        """Return those keys that are stored."""
        found: set[str] = set()
        with translated(self.path):
            for first in range(0, len(keys), LOOKUP):
                part = keys[first : first + LOOKUP]
                query = f"SELECT key FROM seen WHERE key IN ({','.join('?' * len(part))})"  # noqa: S608
                found.update(key for (key,) in self._database.execute(query, part))
        return found

    def _is_stored_earlier(self, metric: Metric) -> bool:
        """Return whether an earlier version has stored a metric with the same identifiers."""
        return bool(self._stored([f"{metric.tenant_id}/{metric.agent_id}/{metric.dedupe_id}"]))

    def _look_for_earlier_keys(self) -> bool:
        with translated(self.path):
            return self._database.execute("SELECT 1 FROM seen WHERE key < ?", (_PREFIX,)).fetchone() is not None

    def _prune(self, now: int) -> None:
        if time.monotonic() - self._pruned > PRUNE_SECONDS:
            self._pruned = time.monotonic()
            self._database.execute(_PRUNE, (now - self._window,))
            self._has_earlier_keys = self._look_for_earlier_keys()


def _split(keys: str) -> tuple[str, ...]:
    return tuple(filter(None, keys.split("\n")))


def dedupe_key(metric: Metric) -> str:
    """Return the key under which a metric with a dedupe_id is stored once."""
    return f"{_PREFIX}{series(metric)}/{metric.dedupe_id}"
