"""`mqttkit demo`: the main job, end to end, as a newcomer runs it."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mqttkit.broker.profile import Profile
from mqttkit.demo import Demo
from mqttkit.testing.broker import TestBroker
from tests.support.brokers import missing, need

pytestmark = pytest.mark.system

COMMAND = [sys.executable, "-m", "mqttkit", "demo"]


@pytest.fixture
def own_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make the demo keep its temporary files, and so its broker, where this test can tell them from others."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path


def left_behind(directory: Path) -> list[str]:
    """Return files in the directory, and the command lines of processes that mention it."""
    found = [path.name for path in directory.glob("mqttkit*")]
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and str(directory).encode() in (entry / "cmdline").read_bytes():
                found.append((entry / "cmdline").read_text())
    return found


def numbers(output: str) -> dict[str, float]:
    """Return the figures of the summary."""
    return {
        name: float(value) for name, value in re.findall(r"^(published|received|lost|rate) +([0-9.]+)", output, re.M)
    }


@pytest.mark.parametrize("backend", ["process", "embedded"])
def test_everything_published_is_received(own_tmp: Path, backend: str) -> None:
    """On either broker: progress lines, then the figures; nothing lost; exit code 0; no broker left."""
    need("mosquitto")
    done = subprocess.run([*COMMAND, "--seconds", "4", "--backend", backend], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert f"broker: {backend} on 127.0.0.1:" in done.stdout
    assert re.search(r"^ +\d+ s  \d+ devices  \d+ published  \d+ received$", done.stdout, re.M)
    assert re.search(r"^latency    p50 [0-9.]+ ms, p99 [0-9.]+ ms$", done.stdout, re.M)
    figures = numbers(done.stdout)
    assert figures["published"] == figures["received"] > 200
    assert figures["lost"] == 0
    assert left_behind(own_tmp) == []


def test_without_docker_and_mosquitto_the_embedded_broker_is_taken() -> None:
    """On a machine with neither, the demo still passes: here mosquitto's program is hidden in a mount namespace."""
    if os.geteuid() != 0:
        missing("only root can hide a program in a mount namespace")
    hidden = 'mount --bind /dev/null "$1" && shift && exec "$@"'
    command = ["unshare", "--mount", "sh", "-c", hidden, "sh", need("mosquitto"), *COMMAND, "--seconds", "3"]
    environment = {**os.environ, "DOCKER_HOST": "unix:///no/such/socket"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert "broker: embedded on 127.0.0.1:" in done.stdout
    assert numbers(done.stdout)["lost"] == 0


def test_it_ends_by_itself_after_15_seconds() -> None:
    """Without an option it takes 15 seconds, and a little for the broker."""
    began = time.monotonic()
    done = subprocess.run(COMMAND, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert 15 <= time.monotonic() - began < 60, "the broker's start and end take a few seconds, more on a busy machine"


def test_interrupt_ends_it_cleanly_broker_included(own_tmp: Path) -> None:
    """Ctrl-C prints the figures up to then, leaves no broker and ends with 130."""
    process = subprocess.Popen(COMMAND, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    lines = [process.stdout.readline(), process.stdout.readline()]
    assert "devices" in lines[1]
    assert left_behind(own_tmp)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    figures = numbers(output)
    assert figures["published"] == figures["received"] > 0
    assert left_behind(own_tmp) == []


def test_json_is_all_that_is_printed() -> None:
    """With --json the figures are one object, without progress lines."""
    need("mosquitto")
    words = ["--seconds", "1", "--backend", "process", "--json"]
    figures = json.loads(subprocess.run([*COMMAND, *words], check=True, capture_output=True, text=True).stdout)
    assert figures["published"] == figures["received"] > 0
    assert figures["lost"] == 0


def test_terminal_gets_a_live_table() -> None:
    """On a terminal a table shows device, name, RSSI, messages and when it was heard last."""
    leader, follower = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "120", "LINES": "40"}
    with subprocess.Popen([*COMMAND, "--seconds", "3"], stdout=follower, stderr=follower, env=environment) as process:
        os.close(follower)
        shown = bytearray()
        while select.select([leader], [], [], 20)[0]:
            try:
                shown += os.read(leader, 65_536)
            except OSError:  # the terminal is closed with its last process
                break
    os.close(leader)
    assert process.returncode == 0
    text = shown.decode(errors="replace")
    for column in ("device", "name", "RSSI", "heard", "last"):
        assert column in text
    assert re.search(r"([0-9A-F]{2}:){5}[0-9A-F]{2}", text)
    assert "lost       0" in text


def test_stop_before_it_begins_is_not_forgotten(shared_broker: TestBroker) -> None:
    """A signal that comes while the demonstration connects ends it at once, not after its 15 seconds."""
    profile = Profile(name="demo", backend="process", host="127.0.0.1", port=shared_broker.port)
    demonstration = Demo(profile, seconds=15)
    demonstration.stop()
    began = time.monotonic()
    assert all(demonstration.batches())
    assert time.monotonic() - began < 10
    assert demonstration.report().lost == 0
