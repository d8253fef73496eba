"""Store metrics in PostgreSQL: COPY into a staging table, then one INSERT that skips known metrics."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mqttkit.bridge.sinks.postgresql.columns import METRIC_COLUMNS, ColumnMap
from mqttkit.bridge.sinks.postgresql.database import Database
from mqttkit.bridge.sinks.postgresql.tables import Tables
from mqttkit.bridge.sinks.types import (
    KEPT_BYTES,
    LETTER_OVERHEAD,
    Committed,
    DeadLetter,
    MetricBatch,
    SinkOptions,
    StoredLetter,
    without_replays,
)
from mqttkit.errors import SinkUnavailable

if TYPE_CHECKING:
    import psycopg

_COPY = f"COPY staging ({', '.join(METRIC_COLUMNS)}) FROM STDIN"
_COUNT = "SELECT count(*) FROM {letters}"
_SIZE_ON_DISK = "SELECT pg_total_relation_size(to_regclass(%s))"
_SIZE = "SELECT coalesce(sum(least(size, %s) * 4 / 3 + %s), 0) FROM {letters}"
_SETTLE = "DELETE FROM {letters} WHERE id = ANY(%s)"
_LETTERS = (
    "INSERT INTO {letters} (topic, payload, size, sha256, reason, detail, received_ms)"
    " VALUES (%s, %s, %s, %s, %s, %s, %s)"
)
_READ = (
    "SELECT id, topic, payload, size, sha256, reason, detail, received_ms"
    " FROM {letters} WHERE id > %s ORDER BY id LIMIT %s"
)
_FORGET = "DELETE FROM mqttkit_sinks WHERE at < now() - interval '7 days'"
_LAST = (
    "INSERT INTO mqttkit_sinks (sink, batch, stored) VALUES (%s, %s, %s)"
    " ON CONFLICT (sink) DO UPDATE SET batch = excluded.batch, stored = excluded.stored, at = now()"
)
_READ_CONTENTS = "SELECT series, content FROM mqttkit_contents WHERE metrics = %s AND series = ANY(%s)"
_WRITE_CONTENTS = (
    "INSERT INTO mqttkit_contents (metrics, series, content) SELECT %s, unnest(%s::text[]), unnest(%s::text[])"
    " ON CONFLICT (metrics, series) DO UPDATE SET content = excluded.content"
)
EXPIRE_SECONDS = 60.0
"""Seconds between removals of metrics older than `keep`, when there is nothing more to remove."""
EXPIRE_ROWS = 5_000
"""Maximum number of rows that one commit removes."""


class PostgresqlLetters:
    """Dead letters in a table."""

    def __init__(self, database: Database, tables: Tables) -> None:
        self._database = database
        self._table = tables.letters

    def count(self) -> int:
        """Return how many there are."""
        with self._database.use() as connection:
            return _count(connection, self._table)

    def read(self, *, after: str = "", limit: int = 100) -> list[StoredLetter]:
        """Return letters in the order they were received, starting after the letter `after`."""
        with self._database.use() as connection:
            found = connection.execute(_READ.format(letters=self._table), (int(after or 0), limit)).fetchall()
        return [StoredLetter(str(row[0]), DeadLetter(*row[1:])) for row in found]

    def get(self, letter_id: str) -> StoredLetter | None:
        """Return one letter."""
        if not letter_id.isdigit():
            return None
        found = self.read(after=str(int(letter_id) - 1), limit=1)
        return found[0] if found and found[0].id == str(int(letter_id)) else None

    def remove(self, ids: Sequence[str]) -> int:
        """Remove letters; return how many were there."""
        with self._database.use() as connection:
            return _settle(connection, self._table, ids)


def _count(connection: psycopg.Connection[Any], table: str) -> int:
    return _single(connection, _COUNT.format(letters=table), ())


def _single(connection: psycopg.Connection[Any], query: str, parameters: Sequence[object]) -> int:
    found = connection.execute(query, parameters).fetchone()
    return int(found[0]) if found else 0


def _settle(connection: psycopg.Connection[Any], table: str, ids: Sequence[str]) -> int:
    query = _SETTLE.format(letters=table)
    return connection.execute(query, ([int(one) for one in ids],)).rowcount if ids else 0


class PostgresqlSink:
    """A table of metrics and one of dead letters. `synchronous_commit` decides how durable a commit is."""

    def __init__(self, address: str, options: SinkOptions) -> None:
        self._tables = Tables(options.table, ColumnMap.parse(options.columns), hypertable=options.hypertable)
        self._database = Database(address, options.timeout, self._tables, password_file=options.password_file)
        self.name = self._database.name
        self.target = options.table if options.table != SinkOptions.table else ""
        self.letters = PostgresqlLetters(self._database, self._tables)
        self._limit = options.letter_limit()
        self._keep = options.keep
        self._window = options.dedupe_window
        self._expire_at = time.monotonic()
        self._instance = uuid.uuid4()

    def open(self) -> None:
        """Connect, check the tables, and create those that are missing."""
        self.probe()
        with self._database.use() as connection:
            connection.execute(_FORGET)

    def open_letters(self) -> None:
        """Do nothing: the sink connects at its first query."""

    def probe(self) -> None:
        """Check that the server answers and accepts writes."""
        with self._database.use() as connection:
            found = connection.execute("SHOW transaction_read_only").fetchone()
        if found and found[0] == "on":
            raise SinkUnavailable(f"{self.name} is read-only: a standby?")

    def commit(self, batch: MetricBatch) -> Committed:
        """Store the batch. If it was committed by an earlier attempt, return the result of that attempt."""
        with self._database.use() as connection:
            done = connection.execute(
                "SELECT stored FROM mqttkit_sinks WHERE sink = %s AND batch = %s", (self._instance, batch.id)
            ).fetchone()
            stored = int(done[0]) if done else self._store(connection, batch)
            self._expire(connection)
        return Committed(stored, len(batch.metrics) - stored)

    def close(self) -> None:
        """Close the connection."""
        self._database.close()

    def _store(self, connection: psycopg.Connection[Any], batch: MetricBatch) -> int:
        stored = 0
        with connection.cursor() as cursor:
            metrics, contents = without_replays(batch, lambda names: self._last_contents(connection, names))
            if metrics:
                with cursor.copy(_COPY) as copy:
                    for metric in metrics:
                        copy.write_row(metric)
                stored = cursor.execute(self._database.layout.insert).rowcount
            if contents:  # sorted, so that two bridges lock the rows in one order
                names = sorted(contents)
                values = [contents[name] for name in names]
                cursor.execute(_WRITE_CONTENTS, (self._tables.plain, names, values))
            _settle(connection, self._tables.letters, batch.settles)
            if batch.letters:
                self._check_room(connection)
                cursor.executemany(_LETTERS.format(letters=self._tables.letters), batch.letters)
            cursor.execute(_LAST, (self._instance, batch.id, stored))
        return stored

    def _last_contents(self, connection: psycopg.Connection[Any], names: Sequence[str]) -> dict[str, str]:
        return dict(connection.execute(_READ_CONTENTS, (self._tables.plain, list(names))).fetchall())

    def _expire(self, connection: psycopg.Connection[Any]) -> None:
        """Remove metrics older than `keep`, and ids older than the dedupe window, a bounded number with each commit."""
        if time.monotonic() < self._expire_at:
            return
        layout, removed = self._database.layout, 0
        if self._keep is not None:
            oldest = round((time.time() - self._keep) * 1000)
            parameters = {"oldest": oldest, "rows": EXPIRE_ROWS}
            removed = connection.execute(layout.expire, parameters).rowcount
        if layout.forget_ids:
            parameters = {"seconds": self._window, "rows": EXPIRE_ROWS}
            removed = max(removed, connection.execute(layout.forget_ids, parameters).rowcount)
        if removed < EXPIRE_ROWS:
            self._expire_at = time.monotonic() + EXPIRE_SECONDS

    def _check_room(self, connection: psycopg.Connection[Any]) -> None:
        """Raise DeadLettersFull at the limit. The size on disk is an upper bound: it counts removed letters too."""
        table = self._tables.letters
        number = _count(connection, table) if self._limit.number else 0
        size = _single(connection, _SIZE_ON_DISK, (table,))
        if size >= self._limit.size:
            size = _single(connection, _SIZE.format(letters=table), (KEPT_BYTES, LETTER_OVERHEAD))
        if self._limit.reached(number, size):
            raise self._limit.error(self.name)
