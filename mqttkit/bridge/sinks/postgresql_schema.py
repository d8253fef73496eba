"""The tables of the PostgreSQL sink: check those that exist, create those that are missing, convert earlier ones.

The table with the metrics may belong to the user. The sink changes only a table that it has created, which
`mqttkit_schema` records, and refuses another one with the difference.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

from mqttkit.errors import SinkBroken

logger = logging.getLogger(__name__)

VERSION = 3
"""1: the key has no metric name. 2: it has. 3: an index on the time."""
LOCK = 0x6D71_7474
"""Advisory lock held while the tables are created, so that two bridges can start at the same time."""
METRIC_COLUMNS = {
    "tenant_id": "uuid",
    "agent_id": "text",
    "metric_name": "text",
    "value": "double precision",
    "timestamp_ms": "bigint",
    "dedupe_id": "text",
    "tags": "jsonb",
    "received_ms": "bigint",
}
KEY = ("tenant_id", "agent_id", "metric_name", "dedupe_id")
_OPTIONAL = ("dedupe_id", "tags")
_LETTER_COLUMNS = {
    "id": "bigint",
    "topic": "text",
    "payload": "text",
    "size": "bigint",
    "sha256": "text",
    "reason": "text",
    "detail": "text",
    "received_ms": "bigint",
}
_COLUMNS = (
    "SELECT attname, format_type(atttypid, atttypmod), attnotnull AND NOT atthasdef AND attidentity = ''"
    " FROM pg_attribute WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped"
)
_UNIQUE_KEYS = (
    "SELECT array_agg(attname::text) FROM pg_index"
    " JOIN pg_attribute ON attrelid = indrelid AND attnum = ANY(indkey)"
    " WHERE indrelid = to_regclass(%s) AND indisunique AND indexprs IS NULL"
    " AND (indpred IS NULL OR pg_get_expr(indpred, indrelid) = '(dedupe_id IS NOT NULL)')"
    " GROUP BY indexrelid"
)
_SINKS = (
    "CREATE TABLE mqttkit_sinks (sink uuid PRIMARY KEY, batch text NOT NULL, stored bigint NOT NULL,"
    " at timestamptz NOT NULL DEFAULT now())"
)
_CONTENTS = (
    "CREATE TABLE mqttkit_contents (metrics text NOT NULL, series text NOT NULL, content text NOT NULL,"
    " PRIMARY KEY (metrics, series))"
)
_SCHEMA = "CREATE TABLE mqttkit_schema (name text PRIMARY KEY, version integer NOT NULL)"
_RECORD = "INSERT INTO mqttkit_schema VALUES (%s, %s) ON CONFLICT (name) DO UPDATE SET version = excluded.version"


@dataclass(frozen=True)
class Tables:
    """The names of one sink's tables, ready for use in SQL."""

    plain: str
    """The metrics' table, with a schema or without."""

    @property
    def metrics(self) -> str:
        """Quoted."""
        return _quoted(self.plain)

    @property
    def plain_letters(self) -> str:
        """The table with the dead letters."""
        return "dead_letters" if self.plain == "metrics" else f"{self.plain}_dead_letters"

    @property
    def letters(self) -> str:
        """Quoted."""
        return _quoted(self.plain_letters)

    def index(self, suffix: str, *, whole: bool = False) -> str:
        """Return the quoted name of an index; `whole` with the schema."""
        name = f"{self.plain}_{suffix}"
        return _quoted(name if whole else name.rpartition(".")[2])


def prepare_tables(connection: Any, tables: Tables, name: str) -> None:
    """Check, create and convert the tables in the caller's transaction; raise SinkBroken. `name` is the sink's."""
    connection.execute("SELECT pg_advisory_xact_lock(%s)", (LOCK,))
    for helper, create in (("mqttkit_sinks", _SINKS), ("mqttkit_schema", _SCHEMA), ("mqttkit_contents", _CONTENTS)):
        if not _exists(connection, helper):
            connection.execute(create)
    if not _exists(connection, tables.metrics):
        _create_metrics(connection, tables)
    _check_columns(connection, tables.metrics, METRIC_COLUMNS, name)
    _convert(connection, tables)
    if list(KEY) not in _unique_keys(connection, tables):
        raise SinkBroken(
            f"{name}: table {tables.plain} has no unique index on {', '.join(KEY)}, which finds duplicates",
            hint=f"Create it: {_create_key(tables)}; or choose another table: --table",
        )
    if not _exists(connection, tables.letters):
        connection.execute(_create_letters(tables))
    _check_columns(connection, tables.letters, _LETTER_COLUMNS, name)


def drop_tables(connection: Any, tables: Tables) -> None:
    """Remove the sink's own tables."""
    connection.execute(f"DROP TABLE IF EXISTS {tables.metrics}, {tables.letters}")
    connection.execute("DELETE FROM mqttkit_schema WHERE name = %s", (tables.plain,))
    connection.execute("DELETE FROM mqttkit_contents WHERE metrics = %s", (tables.plain,))


def _create_metrics(connection: Any, tables: Tables) -> None:
    parts = [f"{name} {kind}{'' if name in _OPTIONAL else ' NOT NULL'}" for name, kind in METRIC_COLUMNS.items()]
    connection.execute(f"CREATE TABLE {tables.metrics} ({', '.join(parts)})")
    connection.execute(_create_key(tables))
    connection.execute(_create_time_index(tables))
    connection.execute(_RECORD, (tables.plain, VERSION))


def _create_key(tables: Tables) -> str:
    columns = ", ".join(KEY)
    name = tables.index("key")
    return f"CREATE UNIQUE INDEX {name} ON {tables.metrics} ({columns}) WHERE dedupe_id IS NOT NULL"


def _create_time_index(tables: Tables) -> str:
    return f"CREATE INDEX IF NOT EXISTS {tables.index('time')} ON {tables.metrics} (timestamp_ms)"


def _create_letters(tables: Tables) -> str:
    parts = ["id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY"]
    parts += [f"{name} {kind} NOT NULL" for name, kind in _LETTER_COLUMNS.items() if name != "id"]
    return f"CREATE TABLE {tables.letters} ({', '.join(parts)})"


def _convert(connection: Any, tables: Tables) -> None:
    """Bring a table that an earlier version created to this version."""
    found = connection.execute("SELECT version FROM mqttkit_schema WHERE name = %s", (tables.plain,)).fetchone()
    version = int(found[0]) if found else _unrecorded_version(connection, tables)
    if version in (0, VERSION):
        return
    if version > VERSION:
        raise SinkBroken(f"a newer mqttkit has created table {tables.plain} (version {version})", hint="Update mqttkit")
    logger.info("converting table %s from version %d to %d", tables.plain, version, VERSION)
    if version < 2:
        connection.execute(f"DROP INDEX {tables.index('key', whole=True)}")
        connection.execute(_create_key(tables))
    connection.execute(_create_time_index(tables))
    connection.execute(_RECORD, (tables.plain, VERSION))


def _unrecorded_version(connection: Any, tables: Tables) -> int:
    """Return the version of a table from before mqttkit_schema; 0 for a table that is not ours."""
    if tables.plain != "metrics" or not _exists(connection, "metrics_key"):
        return 0
    return 2 if list(KEY) in _unique_keys(connection, tables) else 1


def _unique_keys(connection: Any, tables: Tables) -> list[list[str]]:
    """Return the columns of each unique index, in the key's order."""
    found = [set(columns) for (columns,) in connection.execute(_UNIQUE_KEYS, (tables.metrics,)).fetchall()]
    return [[name for name in KEY if name in columns] for columns in found if columns <= set(KEY)]


def _check_columns(connection: Any, table: str, expected: dict[str, str], name: str) -> None:
    """Raise SinkBroken with each difference. Further columns may exist if they need no value."""
    found = {column: (kind, needed) for column, kind, needed in connection.execute(_COLUMNS, (table,)).fetchall()}
    wrong = [f"{column} is missing ({kind})" for column, kind in expected.items() if column not in found]
    wrong += [
        f"{column} is {found[column][0]}, not {kind}"
        for column, kind in expected.items()
        if column in found and found[column][0] != kind
    ]
    wrong += [f"{column} needs a value" for column, (_, needed) in found.items() if needed and column not in expected]
    if wrong:
        hint = "Choose another table: --table"
        raise SinkBroken(f"{name}: table {table} has other columns: {'; '.join(wrong)}", hint=hint)


def _exists(connection: Any, relation: str) -> bool:
    return bool(connection.execute("SELECT to_regclass(%s) IS NOT NULL", (relation,)).fetchone()[0])


def _quoted(name: str) -> str:
    return ".".join(f'"{part}"' for part in name.split("."))
