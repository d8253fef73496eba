"""A mapping from the command line to the database."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.bridges import bridged, metric_topic, rows, wait_until

pytestmark = pytest.mark.system
MAPPING = "[{name: 'temperature', value: to_number(t), dedupe_id: id}, {name: 'humidity', value: h, dedupe_id: id}]"


def test_message_with_two_values_is_stored_as_two_metrics(tmp_path: Path) -> None:
    """Each once, though the bridge is killed and gets messages again; the books balance."""
    total = 1_000
    with bridged(tmp_path, "--mapping", MAPPING) as (_, process, client):
        for number in range(total):
            payload = json.dumps({"t": str(number), "h": -number, "id": f"d{number}"})
            client.publish(metric_topic(metric="state"), payload.encode(), qos=1, wait=20)
            if number == total // 2:
                wait_until(lambda: rows(process.database) > [(0,)])
                process.kill()
                process.start()
        assert client.flush(30)
        wait_until(lambda: rows(process.database) == [(2 * total,)])
        process.finish()
        query = "SELECT metric_name, count(*), sum(value) FROM metrics GROUP BY 1 ORDER BY 1"
        expected = total * (total - 1) / 2
        assert rows(process.database, query) == [("humidity", total, -expected), ("temperature", total, expected)]
