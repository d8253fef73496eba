"""A password that is replaced while the bridge runs."""

from __future__ import annotations

import dataclasses
import subprocess
from pathlib import Path

import pytest

from tests.support.bridge_threads import bridge_settings, running_bridge
from tests.support.bridges import wait_until
from tests.support.brokers import mosquitto, need


def test_changed_password_is_read_for_the_next_connection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The broker refuses the old one after its restart; the file gets the new one; the bridge and its group connect."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    users, secret = tmp_path / "users", tmp_path / "secret"

    def set_password(password: str) -> None:
        subprocess.run([need("mosquitto_passwd"), "-c", "-b", str(users), "ingest", password], check=True)
        users.chmod(0o644)

    set_password("old")
    secret.write_text("old\n")
    secret.chmod(0o600)
    with mosquitto(tmp_path / "mosquitto", f"password_file {users}", anonymous=False) as broker:
        settings = bridge_settings(tmp_path, broker.port, group="g")
        login = dataclasses.replace(settings.mqtt.broker, username="ingest", password="old", password_file=str(secret))
        settings = dataclasses.replace(settings, mqtt=dataclasses.replace(settings.mqtt, broker=login))
        with running_bridge(settings) as thread:
            broker.stop()
            set_password("new")
            broker.start()
            wait_until(lambda: "refused" in str(thread.bridge.health().not_ready))
            secret.write_text("new\n")
            wait_until(lambda: not thread.bridge.health().not_ready)
            assert thread.bridge.group is not None
            wait_until(lambda: thread.bridge.group._client.connected)  # type: ignore[union-attr]
