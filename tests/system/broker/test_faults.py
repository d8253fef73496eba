"""What a broker survives: a killed process, a full disk, a read-only directory, replaced files, a paused process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mqttkit.broker import Broker, BrokerSpec, Profile, existing_broker, start_broker, stop_broker
from mqttkit.broker.probe import ask, operator_login
from mqttkit.broker.profile import read_profile
from tests.support.brokers import missing, need
from tests.support.probe import Probe

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(os.geteuid() != 0, reason="a full disk, another owner and a paused broker need root"),
]


def run(*arguments: str, code: int | None = 0) -> subprocess.CompletedProcess[str]:
    """Run `mqttkit broker …` and require its exit code."""
    command = [sys.executable, "-m", "mqttkit", "broker", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)
    assert code in (None, done.returncode), done.stdout + done.stderr
    return done


def profile_of(broker: Broker) -> Profile:
    profile = read_profile(broker.paths)
    assert profile is not None
    return profile


def keep(broker: Broker, topic: str = "kept") -> None:
    """Publish a retained message as the operator."""
    profile = profile_of(broker)
    with Probe(profile.port, profile.username, profile.password) as writer:
        writer.publish(topic, b"yes", retain=True)


def kept(broker: Broker) -> list[str]:
    """Return the topics of the retained messages."""
    profile = profile_of(broker)
    with Probe(profile.port, profile.username, profile.password) as reader:
        reader.subscribe("#")
        reader.subscribe("barrier")
        return sorted(message.topic for message in reader.messages)


def answers(broker: Broker) -> bool:
    return ask(operator_login(profile_of(broker))).accepted


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small file system for the brokers' state."""
    place = tmp_path / "state"
    place.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(place)], check=False)
    if done.returncode:
        missing("this user cannot mount a tmpfs")
    yield place
    subprocess.run(["umount", str(place)], check=True)


@pytest.fixture
def broker() -> Iterator[Broker]:
    """The default broker, as a process."""
    need("mosquitto")
    broker, _ = start_broker(BrokerSpec(backend="process", port=0))
    yield broker
    stop_broker(broker, volumes=True)


def fill(disk: Path) -> Path:
    """Write a file until the file system is full."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while file.write(b"x" * 4096):
                pass
        except OSError:
            pass
    return ballast


def test_down_and_restart_on_a_full_disk_keep_the_broker_running(disk: Path, broker: Broker):
    """mosquitto replaces its database by an empty file without an error; --discard-unsaved accepts that loss."""
    keep(broker)
    ballast = fill(disk)
    assert "not safe on disk" in run("down", code=1).stderr
    assert "could not start again" in run("restart", code=1).stderr
    assert "could not start again" in run("restart", "--discard-unsaved", code=1).stderr
    assert answers(broker)
    assert kept(broker) == ["kept"]
    ballast.unlink()
    run("restart")
    assert kept(broker) == ["kept"]
    fill(disk)
    assert "--discard-unsaved" in run("down", code=1).stderr
    run("down", "--discard-unsaved")
    assert broker.running() is None


def test_down_with_a_data_directory_that_became_read_only_keeps_the_broker_running(broker: Broker):
    keep(broker)
    data = broker.paths.root / "data"
    data.chmod(0o500)
    error = run("down", code=1).stderr
    assert "cannot save data/mosquitto.db" in error
    assert answers(broker)
    data.chmod(0o700)
    run("down")
    run("up")
    assert kept(broker) == ["kept"]


def test_an_empty_database_is_reported_when_the_broker_starts(broker: Broker):
    """mosquitto starts with it as if nothing had been lost."""
    keep(broker)
    run("down")
    (broker.paths.root / "data/mosquitto.db").write_bytes(b"")
    assert "data/mosquitto.db is not usable: the database is empty" in run("up").stderr
    assert kept(broker) == []


def test_a_truncated_database_is_kept_beside_the_new_one(broker: Broker):
    keep(broker)
    run("down")
    database = broker.paths.root / "data/mosquitto.db"
    truncated = database.read_bytes()[:-5]
    database.write_bytes(truncated)
    assert "truncated" in run("up", code=None).stderr
    assert [path.read_bytes() for path in database.parent.glob("mosquitto.db.damaged-*")] == [truncated]


def test_lost_users_and_messages_are_reported_when_the_broker_starts(broker: Broker):
    run("down")
    (broker.paths.root / "config/passwd").unlink()
    (broker.paths.root / "data/mosquitto.db").unlink()
    error = run("up").stderr
    assert "config/passwd is missing" in error
    assert "data/mosquitto.db is missing" in error


def test_a_killed_broker_is_down_and_comes_back_with_what_it_saved(broker: Broker):
    keep(broker)
    run("restart")
    running = broker.running()
    assert running is not None
    os.kill(running.pid, signal.SIGKILL)
    assert json.loads(run("status", "--json", code=3).stdout)["state"] == "down"
    run("up")
    assert kept(broker) == ["kept"]


def test_a_paused_broker_saves_before_it_stops(broker: Broker):
    keep(broker)
    running = broker.running()
    assert running is not None
    os.kill(running.pid, signal.SIGSTOP)
    run("down")
    run("up")
    assert kept(broker) == ["kept"]
    assert existing_broker().running() != running
