"""`mqttkit top` as a command: without a terminal, in a terminal, and its errors."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator

import pytest

from mqttkit.testing.broker import TestBroker
from tests.support.brokers import missing
from tests.support.clients import wait_until
from tests.support.commands import mqttkit

pytestmark = pytest.mark.system


def test_without_a_terminal_it_prints_a_table(shared_broker: TestBroker, topic: str) -> None:
    """Control characters are escapes in the table, and every topic has its figures."""
    mqttkit("pub", "-r", "-m", "\x1b[2Jcold", f"{topic}/a", port=shared_broker.port)
    mqttkit("pub", "-r", "-m", "21.5", f"{topic}/b", port=shared_broker.port)
    done = mqttkit("top", "--seconds", "1", f"{topic}/#", port=shared_broker.port)
    assert done.returncode == 0, done.stderr
    header, *rows = [line.split() for line in done.stdout.decode().splitlines()]
    assert header == ["topic", "messages/s", "messages", "bytes", "age", "retained", "value"]
    assert [row[0] for row in rows] == [f"{topic}/a", f"{topic}/b"]
    assert rows[0][1:4] == ["0", "1", "8"]
    assert rows[0][5:] == ["yes", "\\x1b[2Jcold"]


def test_json_has_an_object_for_each_topic(shared_broker: TestBroker, topic: str) -> None:
    mqttkit("pub", "-r", "-m", "21.5", topic, port=shared_broker.port)
    done = mqttkit("top", "--json", "--seconds", "1", topic, port=shared_broker.port)
    (found,) = [json.loads(line) for line in done.stdout.splitlines()]
    assert found.pop("age") < 5
    assert found == {"topic": topic, "rate": 0.0, "messages": 1, "bytes": 4, "retained": True, "payload": "21.5"}


def test_errors_name_the_mistake(shared_broker: TestBroker) -> None:
    assert mqttkit("top", "a/#/b", port=shared_broker.port).returncode == 2
    done = mqttkit("top", "$share/group/a", port=shared_broker.port)
    assert done.returncode == 2
    assert b"shared subscription" in done.stderr
    assert mqttkit("top", "--once", "--no-retry", port=1).returncode == 3


@pytest.fixture
def session() -> Iterator[list[str]]:
    """Return the start of a tmux command for a separate server."""
    if shutil.which("tmux") is None:
        missing("tmux is not installed")
    command = ["tmux", "-L", f"mqttkit-{os.getpid()}", "-f", "/dev/null"]
    yield command
    subprocess.run([*command, "kill-server"], check=False, capture_output=True)


@pytest.mark.parametrize("columns", [80, 60])
def test_in_a_terminal_it_shows_the_tree(
    shared_broker: TestBroker, topic: str, session: list[str], columns: int
) -> None:
    """The tree with whole addresses, the keys and the value; q gives the terminal back."""
    mqttkit("pub", "-r", "-m", "21.5", f"{topic}/gate/AA:BB:CC:DD:EE:FF", port=shared_broker.port)
    view = f"env -u COLUMNS -u LINES {sys.executable} -m mqttkit top -h 127.0.0.1 -p {shared_broker.port}"
    command = f"{view} '{topic}/#'; echo ended with $?; read x"
    subprocess.run([*session, "new-session", "-d", "-x", str(columns), "-y", "24", command], check=True)

    def screen() -> str:
        return subprocess.run([*session, "capture-pane", "-p"], check=True, capture_output=True, text=True).stdout

    wait_until(lambda: "AA:BB:CC:DD:EE:FF" in screen() and screen().rstrip().endswith("q quit"))
    shown = screen()
    assert all(len(line) <= columns for line in shown.splitlines())
    assert "21.5" in shown
    subprocess.run([*session, "send-keys", "q"], check=True)
    wait_until(lambda: "ended with 0" in screen())
