"""The PostgreSQL sink."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pytest

from mqttkit.bridge.sinks import open_sink
from mqttkit.bridge.sinks.types import Committed, MetricBatch, SinkOptions
from mqttkit.errors import SinkBroken, SinkRefused
from tests.support.bridges import TENANT
from tests.support.sinks import metric, postgresql_case


def test_postgresql_columns_have_their_types(server: Callable[[str], Any]) -> None:
    """uuid, double precision, bigint and jsonb."""
    import psycopg

    case = postgresql_case(server("postgresql"))
    with contextlib.closing(case.open()) as sink:
        sink.commit(MetricBatch([metric(0.1, "x")]))
    with psycopg.connect(case.address) as connection:
        row = connection.execute("SELECT tenant_id::text, value, tags->>'unit', timestamp_ms FROM metrics").fetchone()
    assert row == (TENANT, 0.1, "°C", 1_700_000_000_123)


def test_postgresql_refuses_data_and_tables_of_another_shape(server: Callable[[str], Any]) -> None:
    """Data it cannot store is SinkRefused, a foreign table SinkBroken."""
    import psycopg

    case = postgresql_case(server("postgresql"))
    with contextlib.closing(case.open()) as sink, pytest.raises(SinkRefused):
        sink.commit(MetricBatch([metric(1, "nul\0")]))
    postgresql_case(server("postgresql"))
    with psycopg.connect(case.address, autocommit=True) as connection:
        connection.execute("CREATE TABLE metrics (a int)")
    sink = open_sink(case.address, SinkOptions())
    with contextlib.closing(sink), pytest.raises(SinkBroken):
        sink.open()


def test_postgresql_key_of_an_earlier_version_gets_the_metric_name(server: Callable[[str], Any]) -> None:
    """Duplicates are still found, and another metric with the same dedupe_id is stored."""
    import psycopg

    case = postgresql_case(server("postgresql"))
    with contextlib.closing(case.open()) as sink:
        sink.commit(MetricBatch([metric(1, "x")]))
    with psycopg.connect(case.address, autocommit=True) as connection:
        connection.execute("DROP INDEX metrics_key")
        connection.execute("CREATE UNIQUE INDEX metrics_key ON metrics (tenant_id, agent_id, dedupe_id)")
    with contextlib.closing(case.open()) as sink:
        other = metric(2, "x")._replace(metric_name="u")
        assert sink.commit(MetricBatch([metric(1, "x"), other])) == Committed(1, 1)
    assert sorted(case.values()) == [1, 2]
