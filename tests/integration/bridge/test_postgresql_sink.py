"""The PostgreSQL sink."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Any

import pytest

from mqttkit.bridge.sinks import open_sink
from mqttkit.bridge.sinks.types import Committed, MetricBatch, SinkOptions
from mqttkit.errors import SinkBroken, SinkRefused
from tests.support.bridges import TENANT
from tests.support.sinks import LETTER, metric, postgresql_case


def test_postgresql_columns_have_their_types(server: Callable[[str], Any]) -> None:
    """uuid, double precision, bigint and jsonb; the time has an index."""
    import psycopg

    case = postgresql_case(server("postgresql"))
    with contextlib.closing(case.open()) as sink:
        sink.commit(MetricBatch([metric(0.1, "x")]))
    with psycopg.connect(case.address) as connection:
        row = connection.execute("SELECT tenant_id::text, value, tags->>'unit', timestamp_ms FROM metrics").fetchone()
        assert time_has_an_index(connection)
    assert row == (TENANT, 0.1, "°C", 1_700_000_000_123)


def time_has_an_index(connection: Any) -> bool:
    found = connection.execute("SELECT indexdef FROM pg_indexes WHERE tablename = 'metrics'").fetchall()
    return any(definition.endswith("(timestamp_ms)") for (definition,) in found)


def test_postgresql_refuses_data_and_tables_of_another_shape(server: Callable[[str], Any]) -> None:
    """Data it cannot store is SinkRefused, a foreign table SinkBroken."""
    import psycopg

    case = postgresql_case(server("postgresql"))
    with contextlib.closing(case.open()) as sink, pytest.raises(SinkRefused):
        sink.commit(MetricBatch([metric(1, "nul\0")]))
    postgresql_case(server("postgresql"))
    with psycopg.connect(case.address, autocommit=True) as connection:
        connection.execute("CREATE TABLE metrics (a int)")
    sink = open_sink(case.address, SinkOptions(timeout=60.0))
    with contextlib.closing(sink), pytest.raises(SinkBroken):
        sink.open()


def test_postgresql_key_of_an_earlier_version_gets_the_metric_name(server: Callable[[str], Any]) -> None:
    """Duplicates are still found, and another metric with the same dedupe_id is stored."""
    import psycopg

    case = postgresql_case(server("postgresql"))
    with contextlib.closing(case.open()) as sink:
        sink.commit(MetricBatch([metric(1, "x")]))
    with psycopg.connect(case.address, autocommit=True) as connection:
        connection.execute("DROP TABLE mqttkit_schema")
        connection.execute("DROP INDEX metrics_key, metrics_time")
        connection.execute("CREATE UNIQUE INDEX metrics_key ON metrics (tenant_id, agent_id, dedupe_id)")
    with contextlib.closing(case.open()) as sink:
        other = metric(2, "x")._replace(metric_name="u")
        assert sink.commit(MetricBatch([metric(1, "x"), other])) == Committed(1, 1)
    assert sorted(case.values()) == [1, 2]
    with psycopg.connect(case.address) as connection:
        assert time_has_an_index(connection)


COLUMNS = (
    "received_ms bigint, tags jsonb, dedupe_id text, timestamp_ms bigint, value double precision, metric_name text,"
    " agent_id text, tenant_id uuid, note text DEFAULT 'x' NOT NULL"
)


def test_postgresql_uses_a_table_of_the_user_as_it_is(server: Callable[[str], Any]) -> None:
    """Columns in another order get their values, further ones their default, and no index is added."""
    import psycopg

    case = postgresql_case(server("postgresql"))
    with psycopg.connect(case.address, autocommit=True) as connection:
        connection.execute(f"CREATE TABLE metrics ({COLUMNS})")
        with (
            contextlib.closing(open_sink(case.address, SinkOptions(timeout=60.0))) as sink,
            pytest.raises(SinkBroken) as caught,
        ):
            sink.open()
        assert "has no unique index on tenant_id, agent_id, metric_name, dedupe_id" in str(caught.value)
        assert "CREATE UNIQUE INDEX" in caught.value.hint
        connection.execute("CREATE UNIQUE INDEX mine ON metrics (dedupe_id, metric_name, agent_id, tenant_id)")
        with contextlib.closing(case.open()) as sink:
            assert sink.commit(MetricBatch([metric(1, "x"), metric(1, "x")])) == Committed(1, 1)
        row = connection.execute("SELECT agent_id, metric_name, value, received_ms, note FROM metrics").fetchone()
        assert row == ("a", "t", 1.0, 1_700_000_000_456, "x")
        found = connection.execute("SELECT indexname FROM pg_indexes WHERE tablename = 'metrics'").fetchall()
        assert found == [("mine",)]


def test_postgresql_names_the_difference_of_a_table(server: Callable[[str], Any]) -> None:
    """A wrong type, a missing column, and a column that needs a value."""
    import psycopg

    case = postgresql_case(server("postgresql"))
    with psycopg.connect(case.address, autocommit=True) as connection:
        changed = COLUMNS.replace("value double precision", "value numeric").replace(" agent_id text,", "")
        changed = changed.replace(" DEFAULT 'x'", "")
        connection.execute(f"CREATE TABLE metrics ({changed})")
    with (
        contextlib.closing(open_sink(case.address, SinkOptions(timeout=60.0))) as sink,
        pytest.raises(SinkBroken) as caught,
    ):
        sink.open()
    for difference in ("value is numeric, not double precision", "agent_id is missing (text)", "note needs a value"):
        assert difference in str(caught.value)


def test_postgresql_table_of_a_newer_version_is_refused(server: Callable[[str], Any]) -> None:
    """An older mqttkit must not write into it."""
    import psycopg

    case = postgresql_case(server("postgresql"))
    case.open().close()
    with psycopg.connect(case.address, autocommit=True) as connection:
        connection.execute("UPDATE mqttkit_schema SET version = 99")
    with (
        contextlib.closing(open_sink(case.address, SinkOptions(timeout=60.0))) as sink,
        pytest.raises(SinkBroken, match="newer"),
    ):
        sink.open()


def test_postgresql_needs_no_right_to_create_if_the_tables_exist(server: Callable[[str], Any]) -> None:
    """A user who may only read and write stores metrics in another table of another schema."""
    import psycopg

    case = postgresql_case(server("postgresql"))
    options = SinkOptions(timeout=60.0, table="iot.readings")
    with psycopg.connect(case.address, autocommit=True) as connection:
        connection.execute("CREATE SCHEMA iot")
        with contextlib.closing(open_sink(case.address, options)) as sink:
            sink.open()
        connection.execute("CREATE ROLE writer LOGIN")
        connection.execute("GRANT USAGE ON SCHEMA iot TO writer")
        for schema in ("iot", "public"):
            connection.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {schema} TO writer")
        try:
            with contextlib.closing(open_sink(case.address.replace("postgres@", "writer@"), options)) as sink:
                sink.open()
                assert sink.commit(MetricBatch([metric(1, "x")], [LETTER])) == Committed(1, 0)
                assert sink.letters.count() == 1
            assert connection.execute("SELECT value FROM iot.readings").fetchall() == [(1.0,)]
        finally:
            connection.execute("DROP SCHEMA iot CASCADE")
            connection.execute("DROP OWNED BY writer; DROP ROLE writer")


def test_postgresql_keeps_metrics_for_a_period(server: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Older ones are removed, a bounded number with each commit."""
    monkeypatch.setattr("mqttkit.bridge.sinks.postgresql.sink.EXPIRE_ROWS", 3)
    case = postgresql_case(server("postgresql"))
    now_ms = round(time.time() * 1000)
    fresh = [metric(number)._replace(timestamp_ms=now_ms) for number in (100, 101, 102)]
    with contextlib.closing(case.open(keep=3_600.0)) as sink:
        sink.commit(MetricBatch([metric(number) for number in range(7)]))
        assert len(case.values()) == 4
        sink.commit(MetricBatch(fresh[:1]))
        sink.commit(MetricBatch(fresh[1:2]))
        assert case.values() == [100, 101]
        sink.commit(MetricBatch([metric(1), fresh[2]]))
        assert case.values() == [1, 100, 101, 102]  # the next removal is a minute later
