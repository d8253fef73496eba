"""Tables of the user with other columns, partitions and hypertables."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from mqttkit.bridge.sinks import open_sink
from mqttkit.bridge.sinks.read_back import stored_ids
from mqttkit.bridge.sinks.types import Committed, MetricBatch, SinkOptions
from mqttkit.errors import SinkBroken
from mqttkit.settings import BridgeSettings
from tests.support.bridges import TENANT
from tests.support.sinks import Case, metric, postgresql_case

COLUMNS = "tenant_id=tenant,timestamp_ms=time,value=reading,dedupe_id=Key,tags=-,received_ms=-"
OWN = (
    "CREATE TABLE readings (time timestamptz NOT NULL, tenant varchar(36) NOT NULL, agent_id varchar NOT NULL,"
    ' metric_name text NOT NULL, reading double precision NOT NULL, "Key" text)'
)
KEY = 'CREATE UNIQUE INDEX mine ON readings (tenant, agent_id, metric_name, "Key") WHERE "Key" IS NOT NULL'


@pytest.fixture
def case(server: Callable[[str], Any]) -> Case:
    return postgresql_case(server("postgresql"))


@contextlib.contextmanager
def connected(case: Case) -> Iterator[Any]:
    import psycopg

    with psycopg.connect(case.address, autocommit=True) as connection:
        try:
            yield connection
        finally:
            connection.execute(
                "DROP TABLE IF EXISTS readings, readings_dead_letters, readings_ids, metrics, metrics_ids"
            )
            connection.execute("DROP SCHEMA IF EXISTS timescaledb_information CASCADE")
            connection.execute("DROP FUNCTION IF EXISTS create_hypertable, drop_chunks")


def test_columns_of_the_user_get_the_fields(case: Case) -> None:
    """Other names, text for the UUID, a time stamp for milliseconds, and fields that are not stored."""
    options = SinkOptions(timeout=60.0, table="readings", columns=COLUMNS)
    with connected(case) as connection:
        connection.execute(OWN)
        with contextlib.closing(open_sink(case.address, options)) as sink, pytest.raises(SinkBroken) as caught:
            sink.open()
        assert "has no unique index on tenant, agent_id, metric_name, Key, which" in str(caught.value)
        connection.execute(KEY)
        with contextlib.closing(open_sink(case.address, options)) as sink:
            sink.open()
            assert sink.commit(MetricBatch([metric(1.5, "x"), metric(2, "x"), metric(3)])) == Committed(2, 1)
            assert sink.commit(MetricBatch([metric(4, "x")])) == Committed(0, 1)
        query = (
            'SELECT tenant, agent_id, metric_name, reading, extract(epoch FROM time), "Key" FROM readings ORDER BY 4'
        )
        found = [(*row[:4], float(row[4]), row[5]) for row in connection.execute(query).fetchall()]
        assert found == [
            (TENANT, "a", "t", 1.5, 1_700_000_000.123, "x"),
            (TENANT, "a", "t", 3.0, 1_700_000_000.123, None),
        ]
        settings = BridgeSettings(sink=case.address, table="readings", columns=COLUMNS)
        assert sorted(stored_ids(settings, "a"), key=str) == [None, "x"]


def test_columns_of_another_type_are_refused(case: Case) -> None:
    """The error names the types that would do."""
    with connected(case) as connection:
        connection.execute(OWN.replace("time timestamptz", "time date"))
        options = SinkOptions(timeout=60.0, table="readings", columns=COLUMNS)
        with contextlib.closing(open_sink(case.address, options)) as sink, pytest.raises(SinkBroken) as caught:
            sink.open()
        assert "time is date, not bigint or timestamp with time zone" in str(caught.value)


def test_missing_table_is_created_with_the_users_names(case: Case) -> None:
    """Its types are mqttkit's."""
    options = SinkOptions(timeout=60.0, table="readings", columns=COLUMNS)
    with connected(case) as connection:
        with contextlib.closing(open_sink(case.address, options)) as sink:
            sink.open()
            assert sink.commit(MetricBatch([metric(1, "x"), metric(2, "x")])) == Committed(1, 1)
        query = "SELECT column_name, data_type FROM information_schema.columns WHERE table_name = 'readings'"
        assert dict(connection.execute(query).fetchall()) == {
            "tenant": "uuid",
            "agent_id": "text",
            "metric_name": "text",
            "reading": "double precision",
            "time": "bigint",
            "Key": "text",
        }


def test_old_metrics_of_a_partitioned_table_are_removed_and_no_others(case: Case) -> None:
    """Rows of two partitions may have the same place in their files."""
    options = SinkOptions(timeout=60.0, table="readings", columns=COLUMNS, keep=3_600.0)
    with connected(case) as connection:
        connection.execute(OWN + " PARTITION BY LIST (tenant)")
        connection.execute(KEY)
        connection.execute(f"CREATE TABLE readings_one PARTITION OF readings FOR VALUES IN ('{TENANT}')")
        connection.execute("CREATE TABLE readings_rest PARTITION OF readings DEFAULT")
        fresh = "INSERT INTO readings SELECT now(), 'another', 'a', 't', number FROM generate_series(1, 5) AS number"
        connection.execute(fresh)
        with contextlib.closing(open_sink(case.address, options)) as sink:
            sink.open()
            sink.commit(MetricBatch([metric(number) for number in range(5)]))
        assert connection.execute("SELECT count(*), min(tenant) FROM readings").fetchall() == [(5, "another")]


STUB = """
CREATE SCHEMA timescaledb_information;
CREATE TABLE timescaledb_information.hypertables (hypertable_schema name, hypertable_name name, made text);
CREATE FUNCTION create_hypertable(relation regclass, time_column_name name, partitioning_column name = NULL,
    number_partitions integer = NULL, associated_schema_name name = NULL, associated_table_prefix name = NULL,
    chunk_time_interval anyelement = NULL::bigint, create_default_indexes boolean = TRUE) RETURNS void AS $$
    INSERT INTO timescaledb_information.hypertables SELECT nspname, relname,
    format('%s %s %s', time_column_name, chunk_time_interval, create_default_indexes)
    FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace WHERE pg_class.oid = relation $$ LANGUAGE sql;
CREATE FUNCTION drop_chunks(relation regclass, older_than anyelement = NULL::bigint) RETURNS SETOF text AS $$
    DELETE FROM metrics WHERE timestamp_ms < older_than RETURNING 'chunk' $$ LANGUAGE sql;
"""
"""Functions with the names and parameters of TimescaleDB's, which Debian does not have."""


def test_hypertable_stores_each_metric_once(case: Case) -> None:
    """A unique key of a hypertable must contain the time, so a second table finds the duplicates; it is pruned."""
    with connected(case) as connection:
        connection.execute("DROP TABLE IF EXISTS metrics")
        connection.execute(STUB.split("CREATE FUNCTION drop_chunks", maxsplit=1)[0])
        with contextlib.closing(open_sink(case.address, SinkOptions(timeout=60.0, dedupe_window=100))) as sink:
            sink.open()
            batch = [metric(1, "x"), metric(2, "x"), metric(3), metric(3), metric(4, "x", agent="b")]
            assert sink.commit(MetricBatch(batch)) == Committed(4, 1)
            later = metric(5, "x")._replace(timestamp_ms=1_700_000_999_000)
            assert sink.commit(MetricBatch([later, metric(6, "y")])) == Committed(1, 1)
        made = "SELECT hypertable_name::text, made FROM timescaledb_information.hypertables"
        assert connection.execute(made).fetchall() == [("metrics", "timestamp_ms 604800000 f")]
        found = connection.execute("SELECT indexname FROM pg_indexes WHERE tablename = 'metrics'").fetchall()
        assert found == [("metrics_time",)]
        assert case.values() == [1, 3, 3, 4, 6]
        connection.execute("UPDATE metrics_ids SET at = now() - interval '200 seconds' WHERE agent_id = 'a'")
        with contextlib.closing(open_sink(case.address, SinkOptions(timeout=60.0, dedupe_window=100))) as sink:
            sink.open()
            sink.commit(MetricBatch([metric(7, "z")]))
        assert connection.execute("SELECT dedupe_id FROM metrics_ids ORDER BY 1").fetchall() == [("x",), ("z",)]


def test_old_chunks_of_a_hypertable_are_dropped(case: Case) -> None:
    """`--keep` calls drop_chunks; --no-hypertable makes an ordinary table."""
    with connected(case) as connection:
        connection.execute("DROP TABLE IF EXISTS metrics")
        connection.execute("CREATE TABLE metrics (timestamp_ms bigint)")
        connection.execute(STUB)
        connection.execute("DROP TABLE metrics")
        with contextlib.closing(open_sink(case.address, SinkOptions(timeout=60.0, keep=3_600.0))) as sink:
            sink.open()
            assert sink.commit(MetricBatch([metric(1, "x")])) == Committed(1, 0)
        assert case.values() == []
        plain = SinkOptions(timeout=60.0, table="readings", hypertable=False)
        with contextlib.closing(open_sink(case.address, plain)) as sink:
            sink.open()
        assert connection.execute("SELECT count(*) FROM timescaledb_information.hypertables").fetchone() == (1,)
