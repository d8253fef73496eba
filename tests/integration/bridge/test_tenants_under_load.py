"""A large registry of tenants that changes while metrics arrive."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from mqttkit.bridge.tenants import yaml_file
from mqttkit.bridge.tenants.yaml_file import TenantsFile, read_yaml
from tests.support.bridge_threads import bridge_settings, running_bridge
from tests.support.bridges import TENANT, metric_topic, new_tenant, publish_numbers, publisher, rows, wait_until
from tests.support.brokers import mosquitto


def test_storing_goes_on_while_a_hundred_thousand_tenants_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reader of the touched file waits until later metrics are stored; then its new tenant is known."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    newcomer, reading, proceed = new_tenant(), threading.Event(), threading.Event()

    def read_slowly(path: Path, text: bytes | None = None) -> TenantsFile:
        found = read_yaml(path, text)
        reading.set()
        assert proceed.wait(60)
        return found

    database, tenants = tmp_path / "metrics.db", tmp_path / "tenants.yaml"
    with (
        mosquitto(tmp_path / "mosquitto") as broker,
        publisher(broker.port) as client,
        running_bridge(bridge_settings(tmp_path, broker.port)),
    ):
        monkeypatch.setattr(yaml_file, "read_yaml", read_slowly)
        others = "".join(f"- 6f1d7c1e-0000-4000-9000-{number:012d}\n" for number in range(100_000))
        tenants.write_text(f"- {TENANT}\n- {newcomer}\n{others}")
        try:
            sent = iter(range(1_000_000))
            wait_until(lambda: publish_numbers(client, [next(sent)]) or reading.is_set(), what="the reader")
            first = next(sent)
            publish_numbers(client, range(first, first + 100))
            wait_until(lambda: rows(database) == [(first + 100,)])
        finally:
            proceed.set()
        query = f"SELECT count(*) FROM metrics WHERE tenant_id = '{newcomer}'"
        wait_until(
            lambda: (
                client.publish(metric_topic(newcomer), b'{"value":1}', qos=1).wait(60)
                and rows(database, query) > [(0,)]
            ),
            what="a metric of the new tenant",
        )
