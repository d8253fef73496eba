"""Sparkplug B from a simulated edge node, through a real broker and `mqttkit bridge run`, into SQLite."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mqttkit.client import MqttClient
from mqttkit.messages import Message
from tests.support.bridges import TENANT, bridged, mqtt_settings, publish_numbers, rows, wait_until
from tests.support.pages import blocks, find_page
from tests.support.sparkplug import DOUBLE, INT32, STRING, EdgeNode

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


def test_redelivered_data_is_stored_once(tmp_path: Path) -> None:
    """The bridge is killed twice among 1,500 messages at QoS 1, while it commits and acknowledges."""
    total = 1_500
    with bridged(tmp_path, "--sparkplug") as (_, process, client):
        node = EdgeNode(lambda topic, payload: client.publish(topic, payload, qos=1, wait=20), TENANT)
        node.birth(BIRTH)
        for number in range(total):
            node.data({"Motor/Count": number})
            if number in (total // 3, total * 2 // 3):
                wait_until(lambda: len(rows(process.database, VALUES)) > number // 2)  # noqa: B023 - called now
                process.kill()
                process.start(ready=False)
        assert client.flush(30)
        wait_until(lambda: len(rows(process.database, VALUES)) == total + 2)
        wait_until(process.is_ready)
        process.finish()
    counts = [value for _, name, value in rows(process.database, VALUES) if name == "Motor.Count"]
    assert counts == [-3, *range(total)]
    assert rows(process.database, "SELECT reason, detail FROM dead_letters") == []


def test_node_without_a_birth_is_asked_for_it(tmp_path: Path) -> None:
    """Its data is kept as a dead letter until then; `dead-letters retry` stores it with the aliases of the birth."""
    rebirth = {"MQTTKIT_BRIDGE_SPARKPLUG_REBIRTH": "true"}
    asked: list[Message] = []
    with (
        bridged(tmp_path, "--sparkplug", environment=rebirth) as (broker, process, client),
        MqttClient(mqtt_settings(broker.port), on_message=asked.append) as commands,
    ):
        commands.connect(timeout=10)
        commands.subscribe("spBv1.0/+/NCMD/#")
        node = EdgeNode(lambda topic, payload: client.publish(topic, payload, wait=20), TENANT)
        node.aliases = {("", "Motor/Speed"): (0, DOUBLE), ("", "Motor/Count"): (1, INT32)}
        node.data({"Motor/Speed": 4.5})
        wait_until(lambda: asked, what="the rebirth request")
        assert asked[0].topic == f"spBv1.0/{TENANT}/NCMD/edge-1"
        assert b"Node Control/Rebirth" in asked[0].payload
        node.birth(BIRTH)
        wait_until(lambda: len(rows(process.database, VALUES)) == 2)
        assert process.number("sparkplug_rebirth_requests_total") == 1
        wait_until(lambda: process.number("sparkplug_births_total") == 1)
        words = ["bridge", "dead-letters", "retry", "--sparkplug", "--sink", f"sqlite:{process.database}"]
        done = subprocess.run(
            [sys.executable, "-m", "mqttkit", *words, "--tenants", process.tenants],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, **process.environment},
        )
        assert done.stdout == "stored=1 duplicate=0 refused=0\n", done.stderr
    assert rows(process.database, VALUES)[-1] == ("edge-1", "Motor.Speed", 4.5)


def test_the_page_s_settings_store_a_group_with_a_name(tmp_path: Path) -> None:
    """The page's example, with a sink: group, device, names and text arrive as its table says."""
    (example,) = blocks(find_page("bridge-sparkplug.md"), "yaml")
    config = tmp_path / "mqttkit.yaml"
    config.write_text(f"{example}  sink: sqlite:{tmp_path / 'bridge' / 'metrics.db'}\n")
    with bridged(tmp_path, config=str(config)) as (_, process, client):
        node = EdgeNode(lambda topic, payload: client.publish(topic, payload, wait=20), "Plant 1")
        node.birth({})
        node.birth({"Info/Maker": (STRING, "Acme")}, device="press-7")
        query = "SELECT tenant_id, agent_id, metric_name, value, tags FROM metrics WHERE metric_name != 'bdSeq'"
        wait_until(lambda: rows(process.database, query))
        process.finish()
    tags = '{"name":"Info/Maker","text":"Acme"}'
    assert rows(process.database, query) == [(TENANT, "edge-1:press-7", "Info.Maker", 1.0, tags)]
