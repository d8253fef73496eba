"""Store metrics in one SQLite file, with one transaction per batch and a unique key against duplicates."""

from __future__ import annotations

import contextlib
import json
import logging
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from mqttkit.bridge.sinks.file_identity import FREE_SPACE, FileIdentity, file_changed, identity_of
from mqttkit.bridge.sinks.types import (
    KEPT_BYTES,
    LETTER_OVERHEAD,
    Committed,
    DeadLetter,
    LetterLimit,
    MetricBatch,
    SinkOptions,
    StoredLetter,
    letter_size,
    without_replays,
)
from mqttkit.errors import SinkBroken, SinkRefused, SinkUnavailable

logger = logging.getLogger(__name__)

BUSY_SECONDS = 2.0
"""How long SQLite waits for another writer before it reports that the file is locked."""

METRICS = """
CREATE TABLE IF NOT EXISTS metrics (
    tenant_id TEXT NOT NULL, agent_id TEXT NOT NULL, metric_name TEXT NOT NULL, value REAL NOT NULL,
    timestamp_ms INTEGER NOT NULL, dedupe_id TEXT, tags TEXT, received_ms INTEGER NOT NULL);
"""
_KEY = ["tenant_id", "agent_id", "metric_name", "dedupe_id"]
_CREATE_KEY = f"CREATE UNIQUE INDEX metrics_key ON metrics ({', '.join(_KEY)}) WHERE dedupe_id IS NOT NULL"

DEAD_LETTERS = """
CREATE TABLE IF NOT EXISTS dead_letters (
    id INTEGER PRIMARY KEY AUTOINCREMENT, topic TEXT NOT NULL, payload TEXT NOT NULL, size INTEGER NOT NULL,
    sha256 TEXT NOT NULL, reason TEXT NOT NULL, detail TEXT NOT NULL, received_ms INTEGER NOT NULL);
"""

CONTENTS = """
CREATE TABLE IF NOT EXISTS mqttkit_contents (series TEXT PRIMARY KEY, content TEXT NOT NULL) WITHOUT ROWID;
"""
"""The last content of each series whose metrics have no dedupe_id, by which a retained message is recognised."""
_READ_CONTENTS = "SELECT series, content FROM mqttkit_contents WHERE series IN (SELECT value FROM json_each(?))"

_INSERT_METRIC = "INSERT INTO metrics VALUES (?,?,?,?,?,?,?,?) ON CONFLICT DO NOTHING"
_READ_LETTERS = (
    "SELECT id, topic, payload, size, sha256, reason, detail, received_ms"
    " FROM dead_letters WHERE id > ? ORDER BY id LIMIT ?"
)
_MEASURE_LETTERS = "SELECT count(*), coalesce(sum(min(size, ?)), 0) FROM dead_letters"
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
    """Open a file in WAL mode and create its tables. Each commit is on disk when it returns.

    Use the connection from one thread at a time. Raise SinkUnavailable or SinkBroken.
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
    """Translate SQLite's errors into SinkUnavailable, SinkBroken and SinkRefused."""
    try:
        yield
    except (sqlite3.IntegrityError, sqlite3.InterfaceError, sqlite3.DataError) as error:
        raise SinkRefused(f"{path}: {error}") from error
    except (UnicodeEncodeError, OverflowError) as error:
        raise SinkRefused(f"{path}: {error}") from error
    except sqlite3.Error as error:
        text = str(error)
        if any(sign in text for sign in _BROKEN):
            hint = f"Move {path} away, or repair it: sqlite3 {path} '.recover'"
            raise SinkBroken(f"{path} cannot be used: {text}", hint=hint) from error
        raise SinkUnavailable(f"{path}: {text}", hint=FREE_SPACE if "disk is full" in text else "") from error


@contextlib.contextmanager
def transaction(database: sqlite3.Connection, path: str) -> Iterator[None]:
    """Run the block in a transaction: commit it, or roll it back on an exception."""
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


def read_contents(database: sqlite3.Connection, names: Sequence[str]) -> dict[str, str]:
    """Return the last content of each of these series."""
    return dict(database.execute(_READ_CONTENTS, (json.dumps(list(names)),)).fetchall())


def write_contents(database: sqlite3.Connection, contents: Mapping[str, str]) -> None:
    """Remember the last contents of series, in the caller's transaction."""
    database.executemany("INSERT OR REPLACE INTO mqttkit_contents VALUES (?, ?)", contents.items())


def close_moved(database: sqlite3.Connection, path: str) -> None:
    """Close a file that was moved or removed, and write its committed rows from the WAL into it first.

    SQLite does not do that for a moved file. The WAL keeps its old name, and the next file would find it.
    """
    try:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    except sqlite3.Error as error:
        logger.error("cannot complete the file that was moved from %s: %s; keep %s-wal with it", path, error, path)  # noqa: TRY400 - the cause is in the line
    database.close()


class SqliteLetters:
    """Dead letters in a SQLite file, up to the limit."""

    def __init__(self, path: str, limit: LetterLimit) -> None:
        self._path = path
        self._limit = limit
        self._used: tuple[int, int] | None = None
        self.database: sqlite3.Connection | None = None

    def attach(self, database: sqlite3.Connection) -> None:
        """Work on this open file."""
        self.database = database
        self._used = None

    def add(self, letters: Sequence[DeadLetter]) -> None:
        """Insert in the caller's transaction; raise DeadLettersFull."""
        if letters:
            number, size = self.check_room()
            self._open().executemany(_INSERT_LETTER, letters)
            self._used = number + len(letters), size + sum(letter_size(letter.size) for letter in letters)

    def check_room(self) -> tuple[int, int]:
        """Return how many there are, and their bytes; raise DeadLettersFull at the limit."""
        if self._used is None or self._limit.reached(*self._used):
            self._used = self._measure()
        if self._limit.reached(*self._used):
            raise self._limit.error(self._path)
        return self._used

    def forget_count(self) -> None:
        """Count again before the next insert, because the last one was rolled back."""
        self._used = None

    def count(self) -> int:
        """Return how many there are."""
        with translated(self._path):
            return int(self._open().execute("SELECT count(*) FROM dead_letters").fetchone()[0])

    def read(self, *, after: str = "", limit: int = 100) -> list[StoredLetter]:
        """Return letters in the order they were received, starting after the letter `after`."""
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
        """Remove letters in the caller's transaction; return how many there were."""
        if not ids:
            return 0
        cursor = self._open().executemany("DELETE FROM dead_letters WHERE id = ?", [(int(i),) for i in ids])
        self._used = None
        return cursor.rowcount

    def _measure(self) -> tuple[int, int]:
        with translated(self._path):
            number, kept = self._open().execute(_MEASURE_LETTERS, (KEPT_BYTES,)).fetchone()
        return number, kept * 4 // 3 + number * LETTER_OVERHEAD

    def _open(self) -> sqlite3.Connection:
        if self.database is None:
            raise SinkUnavailable(f"{self._path} is not open")
        return self.database


class SqliteSink:
    """Metrics and dead letters in one file. A committed batch survives a power cut."""

    def __init__(self, path: str, options: SinkOptions) -> None:
        self.path = path.removeprefix("//")
        self._file = Path(self.path).expanduser()
        self._identity: FileIdentity | None = None
        self.name, self.target = f"sqlite:{self.path}", ""
        self.letters = SqliteLetters(self.path, options.letter_limit())
        self._database: sqlite3.Connection | None = None

    def open(self) -> None:
        """Open the file and create missing tables; raise SinkBroken if a table `metrics` has another shape."""
        self.close()
        database = connect(self.path, METRICS, DEAD_LETTERS, CONTENTS)
        try:
            self._check_schema(database)
        except BaseException:
            database.close()
            raise
        self._database = database
        self._identity = identity_of(self._file)
        self.letters.attach(database)

    def open_letters(self) -> None:
        """Open an existing file; another process may use it at the same time."""
        if not self._file.exists():
            raise SinkBroken(f"no file {self.path}", hint="Give the same --sink as to the bridge")
        self.open()

    def probe(self) -> None:
        """Take the writer's lock and check that the file is in place and readable. Write nothing."""
        database = self._ready()
        with transaction(database, self.path):
            database.execute("SELECT 1 FROM metrics LIMIT 1").fetchone()
        self._check_file(database)

    def commit(self, batch: MetricBatch) -> Committed:
        """Store metrics and dead letters in one transaction.

        If the file was moved, removed or replaced, raise SinkUnavailable; the next attempt opens the path again.
        """
        database = self._ready()
        self._check_file(database)
        stored = 0
        try:
            with transaction(database, self.path):
                metrics, contents = without_replays(batch, lambda names: read_contents(database, names))
                if metrics:
                    stored = database.executemany(_INSERT_METRIC, metrics).rowcount
                write_contents(database, contents)
                self.letters.settle(batch.settles)
                self.letters.add(batch.letters)
        except BaseException:
            self.letters.forget_count()
            raise
        self._check_file(database)
        return Committed(stored, len(batch.metrics) - stored)

    def close(self) -> None:
        """Close the file."""
        if self._database is not None:
            self._database.close()
            self._database = None

    def _check_schema(self, database: sqlite3.Connection) -> None:
        """Check the columns, and create the unique key or replace that of an earlier version."""
        with translated(self.path):
            columns = [row[1] for row in database.execute("PRAGMA table_info(metrics)")]
            if columns != _METRIC_COLUMNS:
                raise SinkBroken(f"{self.path} has a table 'metrics' of another shape", hint="Choose another file")
            if _key_columns(database) == _KEY:
                return
            with transaction(database, self.path):
                if _key_columns(database) not in ([], _KEY):
                    logger.info("%s: adding the metric's name to the unique key", self.path)
                    database.execute("DROP INDEX metrics_key")
                if not _key_columns(database):
                    database.execute(_CREATE_KEY)

    def _check_file(self, database: sqlite3.Connection) -> None:
        if self.path != ":memory:" and identity_of(self._file) != self._identity:
            self._database = None
            close_moved(database, self.path)
            raise file_changed(self._file)

    def _ready(self) -> sqlite3.Connection:
        if self._database is None:
            self.open()
        if self._database is None:
            raise SinkUnavailable(f"{self.path} is not open")
        return self._database


def _key_columns(database: sqlite3.Connection) -> list[str]:
    return [row[2] for row in database.execute("PRAGMA index_info(metrics_key)")]
