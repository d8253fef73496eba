"""Retained metrics at a running bridge."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.bridge_threads import bridge_settings, running_bridge
from tests.support.bridges import metric_topic, publisher, rows, wait_until
from tests.support.brokers import mosquitto


@pytest.mark.parametrize("version", ["311", "5"])
def test_checks_of_the_subscription_bring_no_retained_metric_again(
    tmp_path: Path, version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bridge subscribes again on MQTT 5 only, where it can ask for no retained messages."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    with mosquitto(tmp_path / "mosquitto") as broker, publisher(broker.port) as client:
        receipt = client.publish(metric_topic(), b'{"value":1}', qos=1, retain=True)
        assert receipt.wait(60)
        settings = bridge_settings(tmp_path, broker.port, client={"version": version}, check_interval=0.2)
        with running_bridge(settings) as thread:
            wait_until(lambda: rows(tmp_path / "metrics.db") == [(1,)])
            canaries = thread.bridge.pipeline.books.put_aside
            wait_until(lambda: thread.bridge.pipeline.books.put_aside >= canaries + 3, what="three more checks")
            balance = thread.bridge.pipeline.books.balance()
    assert (balance.received, balance.stored, balance.duplicate) == (1, 1, 0)
