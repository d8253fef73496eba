"""Store metrics in PostgreSQL: COPY into a staging table, then one INSERT that skips known metrics."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import socket
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from mqttkit.bridge.sinks.postgresql_schema import METRIC_COLUMNS, Tables, prepare_tables
from mqttkit.bridge.sinks.types import (
    Committed,
    DeadLetter,
    MetricBatch,
    SinkOptions,
    StoredLetter,
    without_replays,
)
from mqttkit.config import read_secret
from mqttkit.errors import ConfigError, DeadLettersFull, MissingPart, SinkBroken, SinkRefused, SinkUnavailable

if TYPE_CHECKING:
    import psycopg

logger = logging.getLogger(__name__)

_COLUMNS = ", ".join(METRIC_COLUMNS)
_STAGING = (
    "CREATE TEMPORARY TABLE staging ("
    + ", ".join(f"{name} {kind}" for name, kind in METRIC_COLUMNS.items())
    + ") ON COMMIT DELETE ROWS"
)
_COPY = f"COPY staging ({_COLUMNS}) FROM STDIN"
_INSERT = "INSERT INTO {metrics} ({columns}) SELECT {columns} FROM staging ON CONFLICT DO NOTHING"
_COUNT = "SELECT count(*) FROM {letters}"
_SETTLE = "DELETE FROM {letters} WHERE id = ANY(%s)"
_LETTERS = (
    "INSERT INTO {letters} (topic, payload, size, sha256, reason, detail, received_ms)"
    " VALUES (%s, %s, %s, %s, %s, %s, %s)"
)
_READ = (
    "SELECT id, topic, payload, size, sha256, reason, detail, received_ms"
    " FROM {letters} WHERE id > %s ORDER BY id LIMIT %s"
)
_EXPIRE = (
    "DELETE FROM {metrics} WHERE ctid IN (SELECT ctid FROM {metrics} WHERE timestamp_ms < %s"
    " ORDER BY timestamp_ms LIMIT %s)"
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
"""Most rows that one commit removes."""


def _library() -> Any:
    try:
        import psycopg
    except ImportError as error:
        raise MissingPart(
            "psycopg is not installed", hint="Install it with: pip install 'mqttkit[postgresql]'"
        ) from error
    return psycopg


class Database:
    """A connection that reconnects after a failure, and that is cut if the server does not answer in time."""

    def __init__(
        self, address: str, timeout: float, tables: Tables | None = None, *, password_file: str | None = None
    ) -> None:
        """`timeout` in seconds bounds connecting and each block of `use`. Without `tables` it prepares none.

        Each new connection reads its password from `password_file`, if that is given.
        """
        self.name = re.sub(r"//.*@", "//", address.split("?", maxsplit=1)[0])
        self._address = address
        self._timeout = timeout
        self._tables = tables
        self._password_file = password_file
        self._connection: psycopg.Connection[Any] | None = None

    @contextlib.contextmanager
    def use(self) -> Iterator[psycopg.Connection[Any]]:
        """Yield the connection in a transaction, which commits at the end or rolls back on an exception.

        Raise SinkUnavailable, SinkRefused for data that cannot be stored, SinkBroken for tables of another shape.
        """
        library = _library()
        try:
            connection = self._connected()
            with self._deadline(connection), connection.transaction():
                yield connection
        except ConfigError as error:
            raise SinkUnavailable(f"{self.name}: {error}") from error
        except (library.DataError, library.IntegrityError) as error:
            raise SinkRefused(f"{self.name}: {_first_line(error)}") from error
        except (library.OperationalError, library.InterfaceError) as error:
            self.close()
            raise SinkUnavailable(f"{self.name}: {_first_line(error)}") from error
        except library.errors.ProgrammingError as error:
            hint = "Check that the tables have the expected columns and that the user has rights on them"
            raise SinkBroken(f"{self.name}: {_first_line(error)}", hint=hint) from error
        except library.Error as error:
            self.close()
            raise SinkUnavailable(f"{self.name}: {_first_line(error)}") from error

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _connected(self) -> psycopg.Connection[Any]:
        if self._connection is None:
            connection = self._connection = self._connect()
            try:
                with self._deadline(connection), connection.transaction():
                    connection.execute("SET LOCAL client_min_messages = warning")
                    if self._tables is not None:
                        prepare_tables(connection, self._tables, self.name)
                    connection.execute(_STAGING)
            except BaseException:
                self.close()
                raise
        return self._connection

    def _connect(self) -> psycopg.Connection[Any]:
        options: dict[str, Any] = {"connect_timeout": max(2, round(self._timeout)), "application_name": "mqttkit"}
        if self._password_file is not None:
            options["password"] = read_secret(self._password_file, "", "sink_password_file")
        connection: psycopg.Connection[Any] = _library().connect(self._address, autocommit=True, **options)
        return connection

    @contextlib.contextmanager
    def _deadline(self, connection: psycopg.Connection[Any]) -> Iterator[None]:
        """Cut the connection from another thread when the time is up: libpq would wait forever."""
        twin = socket.socket(fileno=os.dup(connection.fileno()))
        timer = threading.Timer(self._timeout, _cut, (twin,))
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            timer.join()
            twin.close()


def _cut(twin: socket.socket) -> None:
    with contextlib.suppress(OSError):  # it is closed already
        twin.shutdown(socket.SHUT_RDWR)


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", maxsplit=1)[0] or type(error).__name__


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
    found = connection.execute(_COUNT.format(letters=table)).fetchone()
    return int(found[0]) if found else 0


def _settle(connection: psycopg.Connection[Any], table: str, ids: Sequence[str]) -> int:
    query = _SETTLE.format(letters=table)
    return connection.execute(query, ([int(one) for one in ids],)).rowcount if ids else 0


class PostgresqlSink:
    """A table of metrics and one of dead letters. `synchronous_commit` decides how durable a commit is."""

    def __init__(self, address: str, options: SinkOptions) -> None:
        self._tables = Tables(options.table)
        self._database = Database(address, options.timeout, self._tables, password_file=options.password_file)
        self.name = self._database.name
        self.letters = PostgresqlLetters(self._database, self._tables)
        self._limit = options.dead_letter_limit
        self._keep = options.keep
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
                stored = cursor.execute(_INSERT.format(metrics=self._tables.metrics, columns=_COLUMNS)).rowcount
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
        """Remove metrics older than `keep`, a bounded number with each commit."""
        if self._keep is None or time.monotonic() < self._expire_at:
            return
        oldest = round((time.time() - self._keep) * 1000)
        query = _EXPIRE.format(metrics=self._tables.metrics)
        removed = connection.execute(query, (oldest, EXPIRE_ROWS)).rowcount
        if removed < EXPIRE_ROWS:
            self._expire_at = time.monotonic() + EXPIRE_SECONDS

    def _check_room(self, connection: psycopg.Connection[Any]) -> None:
        count = _count(connection, self._tables.letters)
        if count >= self._limit:
            raise DeadLettersFull(
                f"{self.name} has {count} dead letters, the limit is {self._limit}",
                hint="List them: mqttkit bridge dead-letters list; make room: mqttkit bridge dead-letters purge",
            )
