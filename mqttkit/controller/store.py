"""The state that a controller keeps over a restart, in one SQLite file: message ids, nonces, policies, dead letters.

One thread handles messages with a store. What it remembers about them is written by its `commit`, not before. Any
thread may take numbers and save times: these are committed immediately. A controller acknowledges a message only after
its `commit`, so a crash loses only messages that will be delivered again.
"""

from __future__ import annotations

import contextlib
import enum
import sqlite3
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from mqttkit.errors import StoreFailed

DIGEST_BYTES = 16
_TABLES = """
CREATE TABLE IF NOT EXISTS messages (id BLOB NOT NULL UNIQUE, digest BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS nonces (nonce BLOB NOT NULL UNIQUE, digest BLOB NOT NULL, seen INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS policies (
    scope TEXT PRIMARY KEY, version INTEGER NOT NULL, digest BLOB NOT NULL, expires INTEGER, payload TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS sequences (name TEXT PRIMARY KEY, value INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS subscriptions (topic_filter TEXT PRIMARY KEY);
CREATE TABLE IF NOT EXISTS devices (
    owner TEXT NOT NULL, key TEXT NOT NULL, device TEXT NOT NULL, first INTEGER NOT NULL, gone INTEGER NOT NULL,
    PRIMARY KEY (owner, key)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS reporters (owner TEXT PRIMARY KEY, seen INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS dead_letters (
    topic TEXT NOT NULL, data BLOB NOT NULL, reason TEXT NOT NULL, died INTEGER NOT NULL);
"""
_SET_POLICY = """
INSERT INTO policies VALUES (?, ?, ?, ?, ?) ON CONFLICT (scope) DO UPDATE SET
    version = excluded.version, expires = excluded.expires, payload = excluded.payload
    WHERE excluded.version >= policies.version
"""
_SET_DEVICE = """
INSERT INTO devices VALUES (?, ?, ?, ?, ?) ON CONFLICT (owner, key) DO UPDATE SET
    device = excluded.device, first = CASE WHEN gone THEN excluded.first ELSE first END, gone = 0
"""
_FORGET_DEVICES = """
DELETE FROM devices WHERE gone AND owner = ? AND key IN (
    SELECT key FROM devices WHERE gone AND owner = ? ORDER BY gone DESC LIMIT -1 OFFSET ?)
"""
_DEVICES = """
SELECT owner, key, device, first, gone, seen FROM devices JOIN reporters USING (owner)
    WHERE ? IS NULL OR owner = ? ORDER BY owner, key
"""
_SLACK = 1_000
_SEQUENCE_BLOCK = 1_000


class Novelty(enum.Enum):
    """What the store knows about an identifier."""

    NEW = "new"
    SAME = "same"
    """Novelty with the same content: a duplicate."""
    OTHER = "other"
    """Novelty with other content: an attack."""


@dataclass(frozen=True)
class StoredPolicy:
    """The policy in force for one scope."""

    version: int
    expires: int | None
    """Milliseconds since the epoch; None if it never expires."""
    payload: str
    """JSON."""


class StoredDevice(NamedTuple):
    """A device that a controller has found. Times are milliseconds since the epoch, by that controller's clock."""

    owner: str
    """The local controller."""
    key: str
    device: str
    """JSON."""
    first: int
    """When it was found, or found again."""
    gone: int
    """When it was missing; 0 if it is present."""
    seen: int = 0
    """When its controller last reported; set by `devices`."""


class Store:
    """The state of one controller. With `path` None it stays in memory, for tests and simulations.

    Every method raises StoreFailed if SQLite fails, and after `close`.
    """

    def __init__(
        self,
        path: Path | None = None,
        *,
        max_ids: int = 1_000_000,
        nonce_seconds: float = 660.0,
        max_dead: int = 10_000,
    ) -> None:
        self.path = path
        self.max_ids = max_ids
        """Message identifiers to remember; the oldest are deleted first."""
        self.nonce_seconds = nonce_seconds
        """Seconds to remember a nonce: longer than a message can be fresh."""
        self.max_dead = max_dead
        self.undone = 0
        """Number of roll-backs so far."""
        self._lock = threading.RLock()
        self._undone = False
        self._inserted = 0
        self._messages: dict[bytes, bytes] = {}
        """Digests of the messages handled since the last commit, by identifier."""
        self._nonces: dict[bytes, tuple[bytes, int]] = {}
        """Digests and times of the nonces seen since the last commit."""
        self._reserved: dict[str, tuple[int, int]] = {}
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            self._db = _open(path)
        except sqlite3.Error as error:
            raise StoreFailed(f"cannot open the controller's store {path}: {error}") from error

    def close(self) -> None:
        """Close, even if the last commit fails. What the handling thread has not committed is dropped."""
        with self._alone():
            try:
                self._db.commit()
            finally:
                self._db.close()

    def commit(self) -> None:
        """Commit; raise StoreFailed if a failure has undone work since the last commit."""
        with self._alone():
            if self._undone:
                raise StoreFailed("the controller's store failed; uncommitted work is undone")
            self._db.executemany("INSERT INTO messages VALUES (?, ?)", self._messages.items())
            nonces = ((nonce, digest, seen) for nonce, (digest, seen) in self._nonces.items())
            self._db.executemany("INSERT INTO nonces VALUES (?, ?, ?)", nonces)
            self._inserted += len(self._messages) + len(self._nonces)
            if self._inserted >= _SLACK:
                self._forget()
            self._db.commit()
            self._messages.clear()
            self._nonces.clear()

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Lock the connection, and translate the errors of SQLite.

        Some failures roll back the whole transaction (https://sqlite.org/lang_transaction.html, 2.3). The thread that
        lost its work gets the error at its next `commit`.
        """
        with self._lock:
            before = self._in_transaction()
            try:
                yield
            except sqlite3.Error as error:
                self._undone = self._undone or (before and not self._in_transaction())
                raise StoreFailed(f"the controller's store failed: {error}") from error

    def _check_open(self) -> None:
        with self._alone():
            self._db.total_changes  # noqa: B018  raises ProgrammingError after `close`

    def _in_transaction(self) -> bool:
        try:
            return self._db.in_transaction
        except sqlite3.ProgrammingError:  # closed
            return False

    def _run(self, statement: str, values: tuple[object, ...] = ()) -> list[Any]:
        """Run a statement and return all its rows; a roll-back in another thread would interrupt an open cursor."""
        with self._alone():
            return self._db.execute(statement, values).fetchall()

    def _row(self, statement: str, values: tuple[object, ...] = ()) -> Any:
        """Return the first row, or None."""
        rows = self._run(statement, values)
        return rows[0] if rows else None

    def roll_back(self) -> None:
        """Undo everything since the last commit; ignore the error of a broken store."""
        with self._lock, contextlib.suppress(sqlite3.Error):
            self.undone += 1
            self._undone = False
            self._messages.clear()
            self._nonces.clear()
            self._db.rollback()

    # --- duplicates ---------------------------------------------------------------------------------------

    def look_up(self, message_id: str, digest: bytes) -> Novelty:
        """Return whether the message is new, the same as one handled before, or different content with the same id."""
        name = _id(message_id)
        known = self._messages.get(name)
        row = self._row("SELECT digest FROM messages WHERE id = ?", (name,)) if known is None else (known,)
        return _compare(row, digest)

    def remember(self, message_id: str, digest: bytes) -> None:
        """Save that a message was handled."""
        self._check_open()
        self._messages[_id(message_id)] = digest[:DIGEST_BYTES]

    def look_up_nonce(self, nonce: bytes, digest: bytes) -> Novelty:
        """Return whether the nonce is new, or was seen with the same or other content."""
        known = self._nonces.get(nonce)
        row = self._row("SELECT digest FROM nonces WHERE nonce = ?", (nonce,)) if known is None else known[:1]
        return _compare(row, digest)

    def remember_nonce(self, nonce: bytes, digest: bytes) -> None:
        """Save a nonce. Call this only after the signature was verified, or any client could fill the store."""
        self._check_open()
        self._nonces[nonce] = (digest[:DIGEST_BYTES], int(time.time()))

    def count(self) -> int:
        """Return the number of remembered message identifiers."""
        return int(self._row("SELECT count(*) FROM messages")[0]) + len(self._messages)

    def _forget(self) -> None:
        """Delete the oldest identifiers beyond the limit, and nonces too old for any fresh message."""
        self._inserted = 0
        newest = self._row("SELECT max(rowid) FROM messages")[0] or 0
        self._run("DELETE FROM messages WHERE rowid <= ?", (newest - self.max_ids,))
        old = int(time.time() - self.nonce_seconds)
        first = self._row("SELECT min(rowid) FROM nonces")[0] or 0
        fresh = "SELECT rowid FROM nonces WHERE rowid >= ? AND seen >= ? ORDER BY rowid LIMIT 1"
        last = self._row(fresh, (first, old))
        if last is not None:
            self._run("DELETE FROM nonces WHERE rowid < ?", (last[0],))

    # --- policies, sequences, dead letters ----------------------------------------------------------------

    def policy(self, scope: str) -> StoredPolicy | None:
        """Return the policy in force for `global` or a region."""
        row = self._row("SELECT version, expires, payload FROM policies WHERE scope = ?", (scope,))
        return StoredPolicy(*row) if row else None

    def set_policy(self, scope: str, policy: StoredPolicy) -> None:
        """Put a policy in force, unless a newer one is in force already."""
        row = (scope, policy.version, b"", policy.expires, policy.payload)  # the digest of older versions is not used
        self._run(_SET_POLICY, row)

    def next_number(self, name: str) -> int:
        """Return the next number of a sequence, from 1. No number is returned twice, even after a crash.

        The file reserves numbers in blocks; a crash skips the rest of a block.
        """
        with self._alone():
            value, end = self._reserved.get(name, (0, 0))
            if value >= end:
                row = self._row("SELECT value FROM sequences WHERE name = ?", (name,))
                value = int(row[0]) if row else 0
                end = value + _SEQUENCE_BLOCK
                self._run("INSERT OR REPLACE INTO sequences VALUES (?, ?)", (name, end))
                self._db.commit()
            self._reserved[name] = (value + 1, end)
            return value + 1

    def skip_numbers(self, name: str, used: int) -> None:
        """Continue a sequence after `used`, if it has not come that far yet. Any thread may call this."""
        with self._alone():
            row = self._row("SELECT value FROM sequences WHERE name = ?", (name,))
            value, end = self._reserved.get(name, (0, 0))
            if max(value, int(row[0]) if row and value >= end else 0) >= used:
                return
            self._run("INSERT OR REPLACE INTO sequences VALUES (?, ?)", (name, max(used, end)))
            self._reserved[name] = (used, max(used, end))
            self._db.commit()

    def save_policy(self, scope: str, policy: StoredPolicy) -> None:
        """Put a policy in force and commit. Any thread may call this."""
        with self._alone():
            self.set_policy(scope, policy)
            self._db.commit()

    def save_time(self, name: str, moment: float) -> None:
        """Save a time, seconds since the epoch. Any thread may call this."""
        with self._alone():
            self._run("INSERT OR REPLACE INTO sequences VALUES (?, ?)", (f"moment {name}", int(moment)))
            self._db.commit()

    def moment(self, name: str) -> float | None:
        """Return the saved time, or None."""
        row = self._row("SELECT value FROM sequences WHERE name = ?", (f"moment {name}",))
        return float(row[0]) if row else None

    def save_subscription(self, topic_filter: str) -> None:
        """Save that the broker's session has this subscription, and commit. Any thread may call this."""
        with self._alone():
            self._run("INSERT OR IGNORE INTO subscriptions VALUES (?)", (topic_filter,))
            self._db.commit()

    def delete_subscription(self, topic_filter: str) -> None:
        """Save that the session no longer has this subscription, and commit. Any thread may call this."""
        with self._alone():
            self._run("DELETE FROM subscriptions WHERE topic_filter = ?", (topic_filter,))
            self._db.commit()

    def subscriptions(self) -> list[str]:
        """Return the topic filters that the broker's session may have."""
        return [row[0] for row in self._run("SELECT topic_filter FROM subscriptions ORDER BY topic_filter")]

    def save_devices(
        self, owner: str, present: Sequence[StoredDevice], gone: Sequence[str], *, seen: int, max_gone: int
    ) -> None:
        """Save what a report has changed, without a commit; keep at most `max_gone` devices that are gone."""
        with self._alone():
            self._db.execute("INSERT OR REPLACE INTO reporters VALUES (?, ?)", (owner, seen))
            self._db.executemany(_SET_DEVICE, [row[:5] for row in present])
            marked = [(seen, owner, key) for key in gone]
            self._db.executemany("UPDATE devices SET gone = ? WHERE owner = ? AND key = ?", marked)
            if gone:
                self._db.execute(_FORGET_DEVICES, (owner, owner, max_gone))

    def devices(self, owner: str | None = None) -> list[StoredDevice]:
        """Return the devices that a controller has found, or those of all, with those that are gone."""
        return [StoredDevice(*row) for row in self._run(_DEVICES, (owner, owner))]

    def last_report(self, owner: str) -> int:
        """Return when the newest report of a controller was written, milliseconds since the epoch; 0 without any."""
        row = self._row("SELECT seen FROM reporters WHERE owner = ?", (owner,))
        return int(row[0]) if row else 0

    def save(self) -> None:
        """Commit what another thread than the handling one has changed."""
        with self._alone():
            self._db.commit()

    def add_dead_letter(self, topic: str, data: bytes, reason: str) -> None:
        """Save a message that no handler could process; beyond `max_dead` the oldest are deleted."""
        topic, reason = (text.encode(errors="backslashreplace").decode() for text in (topic, reason))
        self._run("INSERT INTO dead_letters VALUES (?, ?, ?, ?)", (topic, data, reason, int(time.time())))
        self._run("DELETE FROM dead_letters WHERE rowid <= (SELECT max(rowid) FROM dead_letters) - ?", (self.max_dead,))

    def save_dead_letter(self, topic: str, data: bytes, reason: str) -> None:
        """Save a dead letter and commit. Any thread may call this."""
        with self._alone():
            self.add_dead_letter(topic, data, reason)
            self._db.commit()

    def dead_letters(self) -> list[tuple[str, bytes, str]]:
        """Return topic, bytes and reason of each dead letter, oldest first."""
        return self._run("SELECT topic, data, reason FROM dead_letters ORDER BY rowid")

    def delete_dead_letters(self, count: int) -> None:
        """Delete the `count` oldest dead letters and commit. Any thread may call this."""
        with self._alone():
            self._run("DELETE FROM dead_letters WHERE rowid IN (SELECT rowid FROM dead_letters LIMIT ?)", (count,))
            self._db.commit()


def _id(message_id: str) -> bytes:
    return uuid.UUID(message_id).bytes


def _compare(row: tuple[bytes] | None, digest: bytes) -> Novelty:
    if row is None:
        return Novelty.NEW
    return Novelty.SAME if row[0] == digest[:DIGEST_BYTES] else Novelty.OTHER


def _open(path: Path | None) -> sqlite3.Connection:
    """Open the database and create its tables; close it if that fails."""
    database = sqlite3.connect(path or ":memory:", check_same_thread=False, timeout=10)
    try:
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("PRAGMA synchronous=FULL")  # a number must not come twice after a power failure
        database.executescript(_TABLES)
    except BaseException:
        database.close()
        raise
    return database
