"""The births of a session's nodes in a SQLite file, saved after each commit and before its acknowledgements."""

from __future__ import annotations

import contextlib
import hashlib
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import msgspec

from mqttkit.bridge.identity import state_directory
from mqttkit.bridge.sinks.sqlite import connect, transaction, translated
from mqttkit.bridge.sparkplug.aliases import BirthMetric, EdgeNode, Table, entry
from mqttkit.bridge.sparkplug.memory import SEEN
from mqttkit.bridge.sparkplug.topic import NodeName
from mqttkit.errors import SinkUnavailable

_TABLES = """
CREATE TABLE IF NOT EXISTS nodes (
    node_group TEXT NOT NULL, node TEXT NOT NULL, expected INTEGER NOT NULL, bd_seq INTEGER,
    births BLOB NOT NULL, used INTEGER NOT NULL, PRIMARY KEY (node_group, node)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS seen (number INTEGER PRIMARY KEY AUTOINCREMENT, identity BLOB NOT NULL);
"""
_WRITE_NODE = "INSERT OR REPLACE INTO nodes VALUES (?,?,?,?,?,?)"
_ADVANCE_NODE = "UPDATE nodes SET expected = ?, used = ? WHERE node_group = ? AND node = ?"
_READ_NODES = "SELECT node_group, node, expected, bd_seq, births FROM nodes ORDER BY used"

_Births = dict[str, list[tuple[int | None, str, int]]]
"""By device: alias, name and type of each metric."""
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(_Births).decode


def sparkplug_directory() -> Path:
    """Return the directory of these files."""
    return state_directory() / "sparkplug"


def saved_nodes() -> list[tuple[NodeName, EdgeNode]]:
    """Return the nodes of all sessions, without those that two sessions know differently; raise SinkUnavailable."""
    found: dict[NodeName, EdgeNode] = {}
    doubtful: set[NodeName] = set()
    for path in sorted(sparkplug_directory().glob("*.db")):
        with (
            translated(str(path)),
            contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as database,
        ):
            for name, node in _read_nodes(database):
                if found.setdefault(name, node).tables != node.tables:
                    doubtful.add(name)
    return [(name, node) for name, node in found.items() if name not in doubtful]


def state_path(*session: str) -> Path:
    """Return the file of a session; `session` says which one."""
    return sparkplug_directory() / f"{hashlib.sha256(chr(0).join(session).encode()).hexdigest()[:16]}.db"


class StateFile:
    """Use it from one thread at a time."""

    def __init__(self, path: Path) -> None:
        """Open or create it; raise SinkUnavailable or SinkBroken."""
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise SinkUnavailable(f"cannot create {path.parent}: {error.strerror}") from error
        self._path = str(path)
        self._saved: dict[NodeName, EdgeNode] = {}
        self._database = connect(self._path, _TABLES)
        with translated(self._path):
            self._used = self._database.execute("SELECT coalesce(max(used), 0) FROM nodes").fetchone()[0]

    def nodes(self) -> list[tuple[NodeName, EdgeNode]]:
        """Return the saved nodes, the longest silent one first."""
        with translated(self._path):
            found = _read_nodes(self._database)
        self._saved = dict(found)
        return found

    def seen(self) -> list[bytes]:
        """Return the identities of processed messages, the oldest first."""
        with translated(self._path):
            return [row[0] for row in self._database.execute("SELECT identity FROM seen ORDER BY number")]

    def save(self, nodes: Mapping[NodeName, EdgeNode], dropped: Iterable[NodeName], seen: Iterable[bytes]) -> None:
        """Write what has changed in one transaction; raise SinkUnavailable or SinkBroken.

        Births are on disk when it returns. Sequence numbers survive the end of the process, but not a power cut.
        """
        known = {name: node for name, node in nodes.items() if node.tables}
        new = {name for name, node in known.items() if not _same_births(self._saved.get(name), node)}
        gone = [name for name in (*dropped, *(nodes.keys() - known.keys())) if name in self._saved]
        with translated(self._path):
            self._database.execute(f"PRAGMA synchronous = {'FULL' if new or gone else 'NORMAL'}")
        with transaction(self._database, self._path):
            for name, node in known.items():
                self._used += 1
                if name in new:
                    row = (*name, node.expected, node.bd_seq, _encode(_births(node)), self._used)
                    self._database.execute(_WRITE_NODE, row)
                else:
                    self._database.execute(_ADVANCE_NODE, (node.expected, self._used, *name))
            self._database.executemany("DELETE FROM nodes WHERE node_group = ? AND node = ?", gone)
            self._add_seen(seen)
        self._saved.update(known)
        for name in gone:
            del self._saved[name]

    def _add_seen(self, seen: Iterable[bytes]) -> None:
        rows = [(identity,) for identity in seen]
        if rows:
            self._database.executemany("INSERT INTO seen (identity) VALUES (?)", rows)
            self._database.execute("DELETE FROM seen WHERE number <= (SELECT max(number) FROM seen) - ?", (SEEN,))

    def close(self) -> None:
        """Close the file."""
        self._database.close()


def _read_nodes(database: sqlite3.Connection) -> list[tuple[NodeName, EdgeNode]]:
    rows = database.execute(_READ_NODES).fetchall()
    return [(NodeName(row[0], row[1]), EdgeNode(dict(_tables(row[4])), row[2], row[3])) for row in rows]


def _same_births(before: EdgeNode | None, node: EdgeNode) -> bool:
    return before is not None and before.tables is node.tables


def _births(node: EdgeNode) -> _Births:
    return {device: list(_lines(table)) for device, table in node.tables.items()}


def _lines(table: Table) -> Iterator[tuple[int | None, str, int]]:
    aliases = {found.name: alias for alias, found in table.by_alias.items()}
    for found in table.by_name.values():
        yield aliases.get(found.name), found.name, found.datatype


def _tables(births: bytes) -> Iterator[tuple[str, Table]]:
    for device, lines in _decode(births).items():
        by_alias: dict[int, BirthMetric] = {}
        by_name: dict[str, BirthMetric] = {}
        for alias, name, datatype in lines:
            found = by_name[name] = entry(name, datatype)
            if alias is not None:
                by_alias[alias] = found
        yield device, Table(by_alias, by_name)
