"""Bridges that share a subscription: the proof that sharing works, and members that notice a missing one."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from mqttkit.bridge import group as group_module
from mqttkit.bridge.identity import stored_identities
from mqttkit.bridge.session import end_session
from mqttkit.cli import cli
from tests.support.bridge_threads import bridge_settings, running_bridge
from tests.support.bridges import (
    QUEUE_WITHOUT_LIMIT,
    ask_health,
    mqtt_settings,
    publish_numbers,
    publisher,
    stored_numbers,
    wait_until,
)
from tests.support.brokers import Mosquitto, free_port, mosquitto


@pytest.fixture(autouse=True)
def _own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.fixture
def end_patience(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """A function: once it is called, a silent member is missing. Before, none is, however slow the machine."""
    monkeypatch.setattr(group_module, "BEAT_SECONDS", 0.2)
    monkeypatch.setattr(group_module, "MISSING_SECONDS", 3_600.0)
    return lambda: monkeypatch.setattr(group_module, "MISSING_SECONDS", 1.0)


@pytest.fixture(scope="module")
def queue(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mosquitto]:
    with mosquitto(tmp_path_factory.mktemp("mosquitto"), QUEUE_WITHOUT_LIMIT) as running:
        yield running


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the writer's lock of a SQLite file."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("BEGIN IMMEDIATE")
        yield
        database.execute("ROLLBACK")


def test_backlog_does_not_pass_for_a_broker_without_sharing(queue: Mosquitto, tmp_path: Path) -> None:
    """The proof of shared subscriptions does not wait behind queued messages, so the bridge does not end with 5."""
    settings = bridge_settings(tmp_path, queue.port, group="backlog", drain_timeout=0.2, sink_timeout=0.2)
    path = tmp_path / "metrics.db"
    with running_bridge(settings):
        pass
    with publisher(queue.port) as client:
        publish_numbers(client, range(5_000))
    with locked(path), running_bridge(settings, ready=False) as thread:
        wait_until(lambda: not thread.is_alive() or thread.is_subscribed)
        assert thread.error is None
        wait_until(lambda: thread.bridge.pipeline.blocked)
    with running_bridge(settings):
        wait_until(lambda: stored_numbers(path) == list(range(5_000)))


def test_missing_member_is_reported_until_it_leaves(
    queue: Mosquitto, tmp_path: Path, caplog: pytest.LogCaptureFixture, end_patience: Callable[[], None]
) -> None:
    """The log and /readyz name the member and the command to run; after that command the warning ends."""
    port = free_port()
    stays = bridge_settings(tmp_path / "stays", queue.port, group="presence", health_port=port)
    goes = bridge_settings(tmp_path / "goes", queue.port, group="presence")
    with running_bridge(stays) as one:
        with running_bridge(goes) as other:
            name = other.bridge.session.client_id
            assert other.bridge.group is not None
            wait_until(lambda: other.bridge.group._members._members and one.bridge.group._members._members)  # type: ignore[union-attr]
            assert one.bridge.health().warnings == []
        end_patience()
        wait_until(lambda: one.bridge.health().warnings)
        (warning,) = one.bridge.health().warnings
        assert f"mqttkit bridge leave --group presence -i {name}" in warning
        status, answer = ask_health(port, "/readyz")
        assert (status, json.loads(answer)["warnings"]) == (200, [warning])
        wait_until(lambda: warning in caplog.text)
        assert "mqttkit_bridge_missing_members 1.0" in ask_health(port, "/metrics")[1].splitlines()
        with running_bridge(goes, ready=False, leave=True) as leaving:
            leaving.join(60)
            assert leaving.code == 0
        wait_until(lambda: not one.bridge.health().warnings)


def test_sessions_are_listed_and_removed(queue: Mosquitto, tmp_path: Path, end_patience: Callable[[], None]) -> None:
    """`sessions list` shows the state; `sessions remove` ends the session and tells the group. A running one stays."""
    stays, goes = (bridge_settings(tmp_path / name, queue.port, group="sessions") for name in ("stays", "goes"))
    run = CliRunner().invoke
    with running_bridge(stays) as one:
        with running_bridge(goes) as other:
            name = other.bridge.session.client_id
        end_patience()
        wait_until(lambda: one.bridge.health().warnings)
        states = dict(line.split("\t")[:2] for line in run(cli, ["bridge", "sessions", "list"]).stdout.splitlines())
        assert states == {one.bridge.session.client_id: "running", name: "stopped"}
        command = ["bridge", "sessions", "remove", "-h", "127.0.0.1", "-p", str(queue.port)]
        refused = run(cli, [*command, one.bridge.session.client_id])
        assert refused.exit_code != 0
        assert run(cli, [*command, name]).stdout == f"removed {name}\n"
        wait_until(lambda: not one.bridge.health().warnings)
    assert {stored.had_session for stored in stored_identities() if stored.client_id == name} == {False}
    end_session(mqtt_settings(queue.port, client_id=one.bridge.session.client_id))


def test_leave_without_a_session_says_so(queue: Mosquitto, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Other options lead to another session: without a warning, the bridge's own would stay unnoticed."""
    settings = bridge_settings(tmp_path, queue.port)
    with running_bridge(settings) as found:
        name = found.bridge.session.client_id
    with running_bridge(settings, ready=False, leave=True) as leaving:
        leaving.join(60)
    assert "nothing to store" not in caplog.text
    with running_bridge(settings, ready=False, leave=True) as again:
        again.join(60)
    assert f"the broker had no session {name}, so there is nothing to store" in caplog.text
    assert (leaving.code, again.code) == (0, 0)
