"""The SQL statements that store metrics in a table, and remove old ones. Pure."""

# ruff: noqa: S608 - the names are checked settings, and quoted

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mqttkit.bridge.sinks.postgresql.columns import KEY, ColumnMap, conversion, quoted

_KEY = ", ".join(KEY)


@dataclass(frozen=True)
class Layout:
    """How a table stores metrics that are in the temporary table `staging`."""

    insert: str = ""
    """Its row count is the number of stored metrics."""
    expire: str = ""
    """Removes metrics older than `oldest` in milliseconds, at most `rows`."""
    forget_ids: str = ""
    """Removes ids older than `seconds`, at most `rows`; empty if the metrics' own key finds duplicates."""


def plain_layout(table: str, columns: ColumnMap, kinds: Mapping[str, str]) -> Layout:
    """Return the layout of a table with a unique key. `kinds` are the types of its columns."""
    insert = (
        f"INSERT INTO {_target(table, columns)} SELECT {_values(columns, kinds)} FROM staging ON CONFLICT DO NOTHING"
    )
    time = quoted(columns.name("timestamp_ms"))
    old = f"SELECT tableoid, ctid FROM {table} WHERE {time} < {_oldest(columns, kinds)} ORDER BY {time} LIMIT %(rows)s"
    return Layout(insert, _delete(table, "(tableoid, ctid)", old))


def hypertable_layout(table: str, ids: str, columns: ColumnMap, kinds: Mapping[str, str]) -> Layout:
    """Return the layout of a hypertable, whose unique keys must contain the time: a table of ids finds duplicates."""
    values = _values(columns, kinds)
    insert = (
        f"WITH fresh AS (INSERT INTO {ids} ({_KEY}) SELECT {_KEY} FROM staging WHERE dedupe_id IS NOT NULL"
        f" ON CONFLICT DO NOTHING RETURNING {_KEY})"
        f" INSERT INTO {_target(table, columns)} SELECT {values} FROM staging WHERE dedupe_id IS NULL"
        f" UNION ALL SELECT {values} FROM (SELECT DISTINCT ON ({_KEY}) staging.* FROM staging"
        f" JOIN fresh USING ({_KEY}) ORDER BY {_KEY}, staging.ctid) AS once"
    )
    expire = f"SELECT drop_chunks('{table}'::regclass, older_than => {_oldest(columns, kinds)})"
    old = f"SELECT ctid FROM {ids} WHERE at < now() - %(seconds)s * interval '1 second' LIMIT %(rows)s"
    return Layout(insert, expire, _delete(ids, "ctid", old))


def _target(table: str, columns: ColumnMap) -> str:
    return f"{table} ({', '.join(quoted(columns.name(one)) for one in columns.stored())})"


def _values(columns: ColumnMap, kinds: Mapping[str, str]) -> str:
    return ", ".join(columns.converted(kinds))


def _oldest(columns: ColumnMap, kinds: Mapping[str, str]) -> str:
    return conversion("timestamp_ms", kinds[columns.name("timestamp_ms")]).format("%(oldest)s::bigint")


def _delete(table: str, row: str, selection: str) -> str:
    return f"DELETE FROM {table} WHERE {row} IN ({selection})"
