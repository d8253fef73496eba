"""Store metrics in PostgreSQL: COPY into a staging table, then one INSERT that skips known metrics."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import socket
import threading
import uuid
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from mqttkit.bridge.sinks.types import Committed, DeadLetter, MetricBatch, SinkOptions, StoredLetter
from mqttkit.errors import DeadLettersFull, MissingPart, SinkBroken, SinkRefused, SinkUnavailable

if TYPE_CHECKING:
    import psycopg

logger = logging.getLogger(__name__)

SCHEMA = """
CREATE TABLE IF NOT EXISTS metrics (
    tenant_id uuid NOT NULL, agent_id text NOT NULL, metric_name text NOT NULL, value double precision NOT NULL,
    timestamp_ms bigint NOT NULL, dedupe_id text, tags jsonb, received_ms bigint NOT NULL);

CREATE TABLE IF NOT EXISTS dead_letters (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, topic text NOT NULL, payload text NOT NULL,
    size bigint NOT NULL, sha256 text NOT NULL, reason text NOT NULL, detail text NOT NULL,
    received_ms bigint NOT NULL);
CREATE TABLE IF NOT EXISTS mqttkit_sinks (sink uuid PRIMARY KEY, batch text NOT NULL, stored bigint NOT NULL,
    at timestamptz NOT NULL DEFAULT now());
DELETE FROM mqttkit_sinks WHERE at < now() - interval '7 days';
"""
_KEY = ["tenant_id", "agent_id", "metric_name", "dedupe_id"]
_CREATE_KEY = f"CREATE UNIQUE INDEX metrics_key ON metrics ({', '.join(_KEY)}) WHERE dedupe_id IS NOT NULL"
_KEY_COLUMNS = (
    "SELECT attribute.attname FROM pg_attribute attribute"
    " WHERE attribute.attrelid = to_regclass('metrics_key') ORDER BY attribute.attnum"
)
_STAGING = "CREATE TEMPORARY TABLE staging (LIKE metrics) ON COMMIT DELETE ROWS"
_COPY = "COPY staging FROM STDIN"
_INSERT = "INSERT INTO metrics SELECT * FROM staging ON CONFLICT DO NOTHING"
_LETTERS = (
    "INSERT INTO dead_letters (topic, payload, size, sha256, reason, detail, received_ms)"
    " VALUES (%s, %s, %s, %s, %s, %s, %s)"
)
_READ = (
    "SELECT id, topic, payload, size, sha256, reason, detail, received_ms"
    " FROM dead_letters WHERE id > %s ORDER BY id LIMIT %s"
)
_LAST = (
    "INSERT INTO mqttkit_sinks (sink, batch, stored) VALUES (%s, %s, %s)"
    " ON CONFLICT (sink) DO UPDATE SET batch = excluded.batch, stored = excluded.stored, at = now()"
)
_LOCK = 0x6D71_7474
"""Advisory lock held while the tables are created, so that two bridges can start at the same time."""


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

    def __init__(self, address: str, timeout: float) -> None:
        """`timeout` in seconds bounds connecting and each block of `use`."""
        self.name = re.sub(r"//.*@", "//", address.split("?", maxsplit=1)[0])
        self._address = address
        self._timeout = timeout
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
            self._connection = _library().connect(
                self._address, autocommit=True, connect_timeout=max(2, round(self._timeout)), application_name="mqttkit"
            )
            with self._deadline(self._connection), self._connection.transaction():
                self._connection.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
                self._connection.execute("SET LOCAL client_min_messages = warning")
                self._connection.execute(SCHEMA)
                _make_key(self._connection)
                self._connection.execute(_STAGING)
        return self._connection

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


def _make_key(connection: psycopg.Connection[Any]) -> None:
    """Create the unique key, or replace that of an earlier version, which had no metric name."""
    columns = [name for (name,) in connection.execute(_KEY_COLUMNS).fetchall()]
    if columns not in ([], _KEY):
        logger.info("adding the metric's name to the unique key metrics_key")
        connection.execute("DROP INDEX metrics_key")
    if columns != _KEY:
        connection.execute(_CREATE_KEY)


def _cut(twin: socket.socket) -> None:
    with contextlib.suppress(OSError):  # it is closed already
        twin.shutdown(socket.SHUT_RDWR)


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", maxsplit=1)[0] or type(error).__name__


class PostgresqlLetters:
    """Dead letters in a table."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def count(self) -> int:
        """Return how many there are."""
        with self._database.use() as connection:
            return _count(connection)

    def read(self, *, after: str = "", limit: int = 100) -> list[StoredLetter]:
        """Return letters in the order they were received, starting after the letter `after`."""
        with self._database.use() as connection:
            found = connection.execute(_READ, (int(after or 0), limit)).fetchall()
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
            return _settle(connection, ids)


def _count(connection: psycopg.Connection[Any]) -> int:
    found = connection.execute("SELECT count(*) FROM dead_letters").fetchone()
    return int(found[0]) if found else 0


def _settle(connection: psycopg.Connection[Any], ids: Sequence[str]) -> int:
    query = "DELETE FROM dead_letters WHERE id = ANY(%s)"
    return connection.execute(query, ([int(one) for one in ids],)).rowcount if ids else 0


class PostgresqlSink:
    """Tables metrics and dead_letters in one database. `synchronous_commit` decides how durable a commit is."""

    def __init__(self, address: str, options: SinkOptions) -> None:
        self._database = Database(address, options.timeout)
        self.name = self._database.name
        self.letters = PostgresqlLetters(self._database)
        self._limit = options.dead_letter_limit
        self._instance = uuid.uuid4()

    def open(self) -> None:
        """Connect and create missing tables."""
        self.probe()

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
        return Committed(stored, len(batch.metrics) - stored)

    def close(self) -> None:
        """Close the connection."""
        self._database.close()

    def _store(self, connection: psycopg.Connection[Any], batch: MetricBatch) -> int:
        stored = 0
        with connection.cursor() as cursor:
            if batch.metrics:
                with cursor.copy(_COPY) as copy:
                    for metric in batch.metrics:
                        copy.write_row(metric)
                stored = cursor.execute(_INSERT).rowcount
            _settle(connection, batch.settles)
            if batch.letters:
                self._check_room(connection)
                cursor.executemany(_LETTERS, batch.letters)
            cursor.execute(_LAST, (self._instance, batch.id, stored))
        return stored

    def _check_room(self, connection: psycopg.Connection[Any]) -> None:
        count = _count(connection)
        if count >= self._limit:
            raise DeadLettersFull(
                f"{self.name} has {count} dead letters, the limit is {self._limit}",
                hint="List them: mqttkit bridge dead-letters list; make room: mqttkit bridge dead-letters purge",
            )
