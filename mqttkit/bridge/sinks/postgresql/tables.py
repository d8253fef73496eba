"""The tables of the PostgreSQL sink: check those that exist, create those that are missing, convert earlier ones.

The table with the metrics may belong to the user. The sink changes only a table that it has created, which
`mqttkit_schema` records, and refuses another one with the difference.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any

from mqttkit.bridge.sinks.postgresql.columns import KEY, METRIC_COLUMNS, ColumnMap, quoted
from mqttkit.bridge.sinks.postgresql.layout import Layout, hypertable_layout, plain_layout
from mqttkit.errors import SinkBroken

logger = logging.getLogger(__name__)

VERSION = 3
"""1: the key has no metric name. 2: it has. 3: an index on the time."""
LOCK = 0x6D71_7474
"""Advisory lock held while the tables are created, so that two bridges can start at the same time."""
_OPTIONAL = ("dedupe_id", "tags")
CHUNK_MS = 7 * 86_400_000
"""Milliseconds of metrics in one chunk of a hypertable: seven days, as TimescaleDB's default."""
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
    " AND (indpred IS NULL OR pg_get_expr(indpred, indrelid) = '(' || quote_ident(%s) || ' IS NOT NULL)')"
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


_STAGING = (
    "CREATE TEMPORARY TABLE staging ("
    + ", ".join(f"{name} {kind}" for name, kind in METRIC_COLUMNS.items())
    + ") ON COMMIT DELETE ROWS"
)
_HAS_TIMESCALE = (
    "SELECT EXISTS (SELECT FROM pg_proc WHERE proname = 'create_hypertable' AND pg_function_is_visible(oid))"
)
_HYPERTABLES = "timescaledb_information.hypertables"
_IS_HYPERTABLE = (
    "SELECT EXISTS (SELECT FROM timescaledb_information.hypertables WHERE"
    " to_regclass(quote_ident(hypertable_schema) || '.' || quote_ident(hypertable_name)) = to_regclass(%s))"
)
_MAKE_HYPERTABLE = (
    "SELECT create_hypertable(%s::regclass, %s::name, chunk_time_interval => %s::bigint,"
    " create_default_indexes => false)"
)


@dataclass(frozen=True)
class Tables:
    """The names of one sink's tables and columns."""

    plain: str
    """The metrics' table, with a schema or without."""
    columns: ColumnMap = field(default_factory=ColumnMap)
    """Names of its columns."""
    hypertable: bool = True
    """Create it as a hypertable if TimescaleDB is installed."""

    @property
    def metrics(self) -> str:
        """Quoted."""
        return quoted(self.plain)

    @property
    def plain_letters(self) -> str:
        """The table with the dead letters."""
        return "dead_letters" if self.plain == "metrics" else f"{self.plain}_dead_letters"

    @property
    def letters(self) -> str:
        """Quoted."""
        return quoted(self.plain_letters)

    @property
    def ids(self) -> str:
        """The table with the ids of a hypertable's metrics, quoted."""
        return quoted(f"{self.plain}_ids")

    def index(self, suffix: str, *, whole: bool = False) -> str:
        """Return the quoted name of an index; `whole` with the schema."""
        name = f"{self.plain}_{suffix}"
        return quoted(name if whole else name.rpartition(".")[2])


def prepare_tables(connection: Any, tables: Tables, name: str) -> Layout:
    """Check, create and convert the tables in the caller's transaction; return how the metrics' table stores metrics.

    Raise SinkBroken. `name` is the sink's.
    """
    connection.execute("SELECT pg_advisory_xact_lock(%s)", (LOCK,))
    for helper, create in (("mqttkit_sinks", _SINKS), ("mqttkit_schema", _SCHEMA), ("mqttkit_contents", _CONTENTS)):
        if not _exists(connection, helper):
            connection.execute(create)
    if not _exists(connection, tables.metrics):
        _create_metrics(connection, tables)
    found = _columns(connection, tables.metrics)
    _refuse(tables.columns.differences(found), tables.metrics, name)
    _convert(connection, tables)
    kinds = {column: kind for column, (kind, _) in found.items()}
    if not _exists(connection, tables.letters):
        connection.execute(_create_letters(tables))
    _check_letters(connection, tables.letters, name)
    connection.execute(_STAGING)
    if _is_hypertable(connection, tables):
        if not _exists(connection, tables.ids):
            _create_ids(connection, tables)
        return hypertable_layout(tables.metrics, tables.ids, tables.columns, kinds)
    if tables.columns.key() not in _unique_keys(connection, tables):
        key = ", ".join(tables.columns.key())
        raise SinkBroken(
            f"{name}: table {tables.plain} has no unique index on {key}, which finds duplicates",
            hint=f"Create it: {_create_key(tables)}; or choose another table: --table",
        )
    return plain_layout(tables.metrics, tables.columns, kinds)


def drop_tables(connection: Any, tables: Tables) -> None:
    """Remove the sink's own tables."""
    connection.execute(f"DROP TABLE IF EXISTS {tables.metrics}, {tables.letters}, {tables.ids}")
    connection.execute("DELETE FROM mqttkit_schema WHERE name = %s", (tables.plain,))
    connection.execute("DELETE FROM mqttkit_contents WHERE metrics = %s", (tables.plain,))


def _create_metrics(connection: Any, tables: Tables) -> None:
    optional = [tables.columns.name(name) for name in _OPTIONAL]
    parts = [
        f"{quoted(name)} {kind}{'' if name in optional else ' NOT NULL'}"
        for name, kind in tables.columns.definition().items()
    ]
    connection.execute(f"CREATE TABLE {tables.metrics} ({', '.join(parts)})")
    if tables.hypertable and connection.execute(_HAS_TIMESCALE).fetchone()[0]:
        time = tables.columns.name("timestamp_ms")
        connection.execute(_MAKE_HYPERTABLE, (tables.metrics, time, CHUNK_MS))
        logger.info("created table %s as a hypertable of TimescaleDB", tables.plain)
    else:
        connection.execute(_create_key(tables))
    connection.execute(_create_time_index(tables))
    connection.execute(_RECORD, (tables.plain, VERSION))


def _create_key(tables: Tables) -> str:
    columns = [quoted(name) for name in tables.columns.key()]
    name = tables.index("key")
    return f"CREATE UNIQUE INDEX {name} ON {tables.metrics} ({', '.join(columns)}) WHERE {columns[-1]} IS NOT NULL"


def _create_time_index(tables: Tables) -> str:
    time = quoted(tables.columns.name("timestamp_ms"))
    return f"CREATE INDEX IF NOT EXISTS {tables.index('time')} ON {tables.metrics} ({time})"


def _create_ids(connection: Any, tables: Tables) -> None:
    parts = [f"{name} {METRIC_COLUMNS[name]} NOT NULL" for name in KEY]
    at = "at timestamptz NOT NULL DEFAULT now()"
    connection.execute(f"CREATE TABLE {tables.ids} ({', '.join([*parts, at])}, PRIMARY KEY ({', '.join(KEY)}))")
    connection.execute(f"CREATE INDEX {tables.index('ids_at')} ON {tables.ids} (at)")


def _is_hypertable(connection: Any, tables: Tables) -> bool:
    return _exists(connection, _HYPERTABLES) and bool(
        connection.execute(_IS_HYPERTABLE, (tables.metrics,)).fetchone()[0]
    )


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
    return 2 if tables.columns.key() in _unique_keys(connection, tables) else 1


def _unique_keys(connection: Any, tables: Tables) -> list[list[str]]:
    """Return the columns of each unique index, in the key's order."""
    key = tables.columns.key()
    rows = connection.execute(_UNIQUE_KEYS, (tables.metrics, tables.columns.name("dedupe_id"))).fetchall()
    found = [set(columns) for (columns,) in rows]
    return [[name for name in key if name in columns] for columns in found if columns <= set(key)]


def _columns(connection: Any, table: str) -> dict[str, tuple[str, bool]]:
    """Return type of each column, and True if it needs a value. A text of bounded length is a text."""
    found = {}
    for column, kind, needed in connection.execute(_COLUMNS, (table,)).fetchall():
        bounded = kind.startswith("character varying(")
        found[column] = ("character varying" if bounded else kind, needed)
    return found


def _check_letters(connection: Any, table: str, name: str) -> None:
    """Raise SinkBroken with each difference of the table with the dead letters."""
    found = {column: kind for column, (kind, _) in _columns(connection, table).items()}
    wrong = [f"{column} is missing ({kind})" for column, kind in _LETTER_COLUMNS.items() if column not in found]
    wrong += [
        f"{column} is {found[column]}, not {kind}"
        for column, kind in _LETTER_COLUMNS.items()
        if column in found and found[column] != kind
    ]
    _refuse(wrong, table, name)


def _refuse(wrong: list[str], table: str, name: str) -> None:
    if wrong:
        hint = "Choose another table: --table, or name its columns: --columns"
        raise SinkBroken(f"{name}: table {table} has other columns: {'; '.join(wrong)}", hint=hint)


def _exists(connection: Any, relation: str) -> bool:
    return bool(connection.execute("SELECT to_regclass(%s) IS NOT NULL", (relation,)).fetchone()[0])
