"""The embedded sink: one SQLite file, one transaction a batch, a unique key against duplicates."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path

from mqttkit.bridge.sinks.types import Committed, DeadLetter, MetricBatch, SinkOptions, StoredLetter
from mqttkit.errors import DeadLettersFull, SinkBroken, SinkRefused, SinkUnavailable

BUSY_SECONDS = 2.0
"""How long SQLite waits for another writer before it says that it is busy."""

METRICS = """
CREATE TABLE IF NOT EXISTS metrics (
    tenant_id TEXT NOT NULL, agent_id TEXT NOT NULL, metric_name TEXT NOT NULL, value REAL NOT NULL,
    timestamp_ms INTEGER NOT NULL, dedupe_id TEXT, tags TEXT, received_ms INTEGER NOT NULL);
CREATE UNIQUE INDEX IF NOT EXISTS metrics_key
    ON metrics (tenant_id, agent_id, dedupe_id) WHERE dedupe_id IS NOT NULL;
"""

DEAD_LETTERS = """
CREATE TABLE IF NOT EXISTS dead_letters (
    id INTEGER PRIMARY KEY AUTOINCREMENT, topic TEXT NOT NULL, payload TEXT NOT NULL, size INTEGER NOT NULL,
    sha256 TEXT NOT NULL, reason TEXT NOT NULL, detail TEXT NOT NULL, received_ms INTEGER NOT NULL);
"""

_INSERT_METRIC = "INSERT INTO metrics VALUES (?,?,?,?,?,?,?,?) ON CONFLICT DO NOTHING"
_READ_LETTERS = (
    "SELECT id, topic, payload, size, sha256, reason, detail, received_ms"
    " FROM dead_letters WHERE id > ? ORDER BY id LIMIT ?"
)
_INSERT_LETTER = (
    "INSERT INTO dead_letters (topic, payload, size, sha256, reason, detail, received_ms) VALUES (?,?,?,?,?,?,?)"
)
_METRIC_COLUMNS = [
    "tenant_id",
    "agent_id",
    "metric_name",
    "value",
    "timestamp_ms",
    "dedupe_id",
    "tags",
    "received_ms",
]
_BROKEN = ("malformed", "not a database", "no such table", "no such column", "has no column", "columns but")


def connect(path: str, *schema: str) -> sqlite3.Connection:
    """Open a file in WAL mode, each commit on disk before it returns, and make its tables.

    Usable from any one thread at a time. Raise SinkUnavailable or SinkBroken.
    """
    if path != ":memory:":
        parent = Path(path).expanduser().resolve().parent
        if not parent.is_dir():
            raise SinkBroken(f"cannot open {path}: no directory {parent}", hint=f"mkdir -p {parent}")
    with translated(path):
        database = sqlite3.connect(
            Path(path).expanduser() if path != ":memory:" else path,
            timeout=BUSY_SECONDS,
            isolation_level=None,
            check_same_thread=False,
        )
        try:
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("PRAGMA synchronous = FULL")
            database.execute("PRAGMA cache_size = -8000")
            for statements in schema:
                database.executescript(statements)
        except BaseException:
            database.close()
            raise
        return database


@contextlib.contextmanager
def translated(path: str) -> Iterator[None]:
    """Turn SQLite's errors into the bridge's: unavailable, broken or refused."""
    try:
        yield
    except (sqlite3.IntegrityError, sqlite3.InterfaceError, sqlite3.DataError) as error:
        raise SinkRefused(f"{path}: {error}") from error
    except (UnicodeEncodeError, OverflowError) as error:
        raise SinkRefused(f"{path}: {error}") from error
    except sqlite3.Error as error:
        text = str(error)
        if any(sign in text for sign in _BROKEN):
            hint = f"Move {path} away, or mend it: sqlite3 {path} '.recover'"
            raise SinkBroken(f"{path} cannot be used: {text}", hint=hint) from error
        raise SinkUnavailable(f"{path}: {text}") from error


@contextlib.contextmanager
def transaction(database: sqlite3.Connection, path: str) -> Iterator[None]:
    """Commit what the block does, or roll it back."""
    with translated(path):
        database.execute("BEGIN IMMEDIATE")
        try:
            yield
            database.execute("COMMIT")
        except BaseException:
            if database.in_transaction:
                with contextlib.suppress(sqlite3.Error):
                    database.execute("ROLLBACK")
            raise


class SqliteLetters:
    """Dead letters in a SQLite file: none more once there are `limit`."""

    def __init__(self, path: str, limit: int) -> None:
        self._path = path
        self._limit = limit
        self._count: int | None = None
        self.database: sqlite3.Connection | None = None

    def attach(self, database: sqlite3.Connection) -> None:
        """Work on this open file."""
        self.database = database
        self._count = None

    def add(self, letters: Sequence[DeadLetter]) -> None:
        """Insert within the caller's transaction; raise DeadLettersFull."""
        if not letters:
            return
        if self._count is None or self._count >= self._limit:
            self._count = self.count()
        if self._count >= self._limit:
            raise DeadLettersFull(
                f"{self._path} holds {self._count} dead letters, {self._limit} are allowed",
                hint="Look: mqttkit bridge dead-letters list; make room: mqttkit bridge dead-letters purge",
            )
        self._open().executemany(_INSERT_LETTER, letters)
        self._count += len(letters)

    def forget_count(self) -> None:
        """Count again before the next insert: the last one was rolled back."""
        self._count = None

    def count(self) -> int:
        """Return how many there are."""
        with translated(self._path):
            return int(self._open().execute("SELECT count(*) FROM dead_letters").fetchone()[0])

    def read(self, *, after: str = "", limit: int = 100) -> list[StoredLetter]:
        """Return letters in the order they came, those behind the one named `after`."""
        with translated(self._path):
            rows = self._open().execute(_READ_LETTERS, (int(after or 0), limit)).fetchall()
        return [StoredLetter(str(row[0]), DeadLetter(*row[1:])) for row in rows]

    def get(self, letter_id: str) -> StoredLetter | None:
        """Return one letter."""
        if not letter_id.isdigit():
            return None
        found = self.read(after=str(int(letter_id) - 1), limit=1)
        return found[0] if found and found[0].id == str(int(letter_id)) else None

    def remove(self, ids: Sequence[str]) -> int:
        """Remove letters; return how many were there."""
        with transaction(self._open(), self._path):
            return self.settle(ids)

    def settle(self, ids: Sequence[str]) -> int:
        """Remove letters within the caller's transaction; return how many were there."""
        if not ids:
            return 0
        cursor = self._open().executemany("DELETE FROM dead_letters WHERE id = ?", [(int(i),) for i in ids])
        self._count = None
        return cursor.rowcount

    def _open(self) -> sqlite3.Connection:
        if self.database is None:
            raise SinkUnavailable(f"{self._path} is not open")
        return self.database


class SqliteSink:
    """Metrics and dead letters in one file, durable against a power cut once committed."""

    def __init__(self, path: str, options: SinkOptions) -> None:
        self.path = path.removeprefix("//")
        self.name = f"sqlite:{self.path}"
        self.letters = SqliteLetters(self.path, options.dead_letter_limit)
        self._database: sqlite3.Connection | None = None

    def open(self) -> None:
        """Open the file and make what is missing; a table `metrics` of another shape is SinkBroken."""
        self.close()
        database = connect(self.path, METRICS, DEAD_LETTERS)
        columns = [row[1] for row in database.execute("PRAGMA table_info(metrics)")]
        if columns != _METRIC_COLUMNS:
            database.close()
            raise SinkBroken(f"{self.path} has a table 'metrics' of another shape", hint="Name another file")
        self._database = database
        self.letters.attach(database)

    def open_letters(self) -> None:
        """Open the file, which must be there; another process may have it open too."""
        if not Path(self.path).expanduser().exists():
            raise SinkBroken(f"no file {self.path}", hint="Is it the bridge's --sink?")
        self.open()

    def probe(self) -> None:
        """Write nothing, but take the writer's lock and see that the file is there and whole."""
        database = self._ready()
        with transaction(database, self.path):
            database.execute("SELECT 1 FROM metrics LIMIT 1").fetchone()
        if not Path(self.path).expanduser().exists():
            self.close()
            raise SinkUnavailable(f"{self.path} was removed")

    def commit(self, batch: MetricBatch) -> Committed:
        """Store metrics and dead letters in one transaction."""
        database = self._ready()
        stored = 0
        try:
            with transaction(database, self.path):
                if batch.metrics:
                    stored = database.executemany(_INSERT_METRIC, batch.metrics).rowcount
                self.letters.settle(batch.settles)
                self.letters.add(batch.letters)
        except BaseException:
            self.letters.forget_count()
            raise
        return Committed(stored, len(batch.metrics) - stored)

    def close(self) -> None:
        """Close the file."""
        if self._database is not None:
            self._database.close()
            self._database = None

    def _ready(self) -> sqlite3.Connection:
        if self._database is None:
            self.open()
        if self._database is None:
            raise SinkUnavailable(f"{self.path} is not open")
        return self._database
