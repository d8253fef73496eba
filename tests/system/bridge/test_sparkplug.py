"""Sparkplug B from a simulated edge node, through a real broker and `mqttkit bridge run`, into SQLite."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.bridges import TENANT, bridged, publish_numbers, rows, wait_until
from tests.support.sparkplug import DOUBLE, INT32, EdgeNode

pytestmark = pytest.mark.system
VALUES = "SELECT agent_id, metric_name, value FROM metrics WHERE metric_name LIKE 'Motor%' ORDER BY rowid"
BIRTH = {"Motor/Speed": (DOUBLE, 1.5), "Motor/Count": (INT32, -3)}


def test_birth_then_kill_then_data_by_alias(tmp_path: Path) -> None:
    """A bridge that was killed after a birth still knows its aliases; metrics/# is stored beside."""
    with bridged(tmp_path, "--sparkplug") as (_, process, client):
        node = EdgeNode(lambda topic, payload: client.publish(topic, payload, qos=1, wait=20), TENANT)
        node.birth(BIRTH)
        node.data({"Motor/Speed": 2.5})
        publish_numbers(client, range(3))
        wait_until(lambda: process.acknowledged >= 5, what="birth, data and three numbers")
        process.kill()
        process.start()
        node.data({"Motor/Count": -4, "Motor/Speed": 3.5})
        wait_until(lambda: len(rows(process.database, VALUES)) == 5)
        process.finish()
    stored = [
        ("Motor.Speed", 1.5),
        ("Motor.Count", -3),
        ("Motor.Speed", 2.5),
        ("Motor.Count", -4),
        ("Motor.Speed", 3.5),
    ]
    assert rows(process.database, VALUES) == [("edge-1", name, value) for name, value in stored]
    assert rows(process.database) == [(9,)]
