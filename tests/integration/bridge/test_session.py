"""The session of a running bridge: one for one broker and one sink, however they are written."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path

import pytest

from mqttkit.settings import Settings
from tests.support.bridge_threads import bridge_settings, running_bridge
from tests.support.bridges import QUEUE_WITHOUT_LIMIT, publish_numbers, publisher, stored_numbers, wait_until
from tests.support.brokers import mosquitto


def with_host(settings: Settings, host: str) -> Settings:
    broker = dataclasses.replace(settings.mqtt.broker, host=host)
    return dataclasses.replace(settings, mqtt=dataclasses.replace(settings.mqtt, broker=broker))


def test_another_spelling_of_broker_and_sink_finds_the_queued_messages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The log says which session it is, and whether the broker had it."""
    caplog.set_level(logging.INFO, "mqttkit")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    with mosquitto(tmp_path / "mosquitto", QUEUE_WITHOUT_LIMIT) as broker, publisher(broker.port) as client:
        settings = bridge_settings(tmp_path, broker.port, sink="sqlite:metrics.db")
        with running_bridge(with_host(settings, "localhost")) as first:
            name = first.bridge.session.client_id
        assert f"created session {name}" in caplog.text
        publish_numbers(client, range(100))
        settings = bridge_settings(tmp_path, broker.port, sink=f"sqlite:{tmp_path / 'metrics.db'}")
        with running_bridge(with_host(settings, "127.0.0.1")) as second:
            assert second.bridge.session.client_id == name
            wait_until(lambda: stored_numbers(tmp_path / "metrics.db") == list(range(100)))
        assert f"resumed session {name}" in caplog.text
        assert caplog.text.count("created session") == 1
