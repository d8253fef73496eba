"""A password that is replaced while the bridge runs."""

from __future__ import annotations

import contextlib
import dataclasses
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mqttkit.bridge.sinks import open_sink
from mqttkit.bridge.sinks.read_back import stored_ids
from mqttkit.bridge.sinks.types import MetricBatch, SinkOptions
from mqttkit.errors import SinkUnavailable, UsageError
from mqttkit.settings import BridgeSettings
from tests.support.bridge_threads import bridge_settings, running_bridge
from tests.support.bridges import wait_until
from tests.support.brokers import mosquitto, need
from tests.support.sinks import metric, postgresql_case, redis_case


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


def test_changed_password_of_postgresql_is_read(tmp_path: Path, server: Callable[[str], Any]) -> None:
    """The server refuses the old one; the batch waits until the file has the new one. A missing file is waited for."""
    import psycopg

    running = server("postgresql")
    postgresql_case(running)
    rules = running.directory / "data" / "pg_hba.conf"
    rules.write_text("host all rotated 127.0.0.1/32 scram-sha-256\n" + rules.read_text())
    with psycopg.connect(running.url, autocommit=True) as admin:
        admin.execute("SELECT pg_reload_conf()")
        admin.execute("CREATE ROLE rotated LOGIN SUPERUSER PASSWORD 'old'")

        def rotate(password: str) -> None:
            admin.execute(f"ALTER ROLE rotated PASSWORD '{password}'")
            admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'rotated'")

        check_rotation(running.url.replace("postgres@", "rotated@"), tmp_path / "secret", rotate)


def test_changed_password_of_redis_is_read(tmp_path: Path, server: Callable[[str], Any]) -> None:
    """As for PostgreSQL. The address has the user and no password."""
    running = server("redis")
    redis_case(running, "redis")
    with running.client() as admin:
        admin.acl_setuser("rotated", enabled=True, keys="*", channels="*", categories=["+@all"], passwords=["+old"])

        def rotate(password: str) -> None:
            admin.acl_setuser(
                "rotated", True, reset=True, keys="*", channels="*", categories=["+@all"], passwords=[f"+{password}"]
            )
            admin.execute_command("CLIENT", "KILL", "USER", "rotated")

        try:
            check_rotation(running.url.replace("//", "//rotated@"), tmp_path / "secret", rotate)
        finally:
            admin.acl_deluser("rotated")


def check_rotation(address: str, secret: Path, rotate: Callable[[str], None]) -> None:
    with contextlib.closing(open_sink(address, SinkOptions(timeout=60.0, password_file=str(secret)))) as sink:
        with pytest.raises(SinkUnavailable, match="cannot read"):
            sink.open()
        write(secret, "old")
        sink.open()
        assert sink.commit(MetricBatch([metric(1, "x")])).stored == 1
        rotate("new")
        batch = MetricBatch([metric(2, "y")])
        for _ in range(2):
            with pytest.raises(SinkUnavailable):
                sink.commit(batch)
        write(secret, "new")
        assert sink.commit(batch).stored == 1
        assert sorted(stored_ids(BridgeSettings(sink=address, sink_password_file=str(secret)), "a")) == ["x", "y"]


def write(secret: Path, password: str) -> None:
    secret.touch(0o600)
    secret.write_text(password + "\n")


def test_password_in_the_address_and_in_a_file_is_an_error(tmp_path: Path) -> None:
    """Otherwise nobody knows which one counts."""
    with pytest.raises(UsageError, match="password file is given too"):
        open_sink("redis://user:word@127.0.0.1", SinkOptions(timeout=60.0, password_file=str(tmp_path / "secret")))
    with pytest.raises(UsageError, match="--sink-password-file is for"):
        open_sink("sqlite:m.db", SinkOptions(timeout=60.0, password_file="secret"))
