"""A Docker broker comes back by itself: after its process was killed, and after the engine was restarted."""

from __future__ import annotations

import os
import signal
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mqttkit.broker import BrokerPaths, BrokerSpec, stop_broker
from mqttkit.broker.backends.docker.backend import DockerBroker
from mqttkit.broker.backends.local_process import READY_SECONDS
from mqttkit.broker.doctor import host
from mqttkit.broker.doctor.examined_broker import ExaminedBroker
from mqttkit.broker.doctor.files import settings
from mqttkit.broker.doctor.findings import Verdict
from mqttkit.broker.live.reload import apply_changes
from mqttkit.broker.probe import operator_login
from mqttkit.broker.profile import locked
from mqttkit.broker.readiness import wait_ready
from mqttkit.broker.status import status_of
from tests.support.brokers import profile_of
from tests.support.clients import wait_until
from tests.support.docker import IMAGE, Engine
from tests.support.probe import Probe

pytestmark = pytest.mark.system


@pytest.fixture
def broker(client: Any, tmp_path: Path) -> Iterator[DockerBroker]:
    """A Docker broker that has saved its database and reloaded its files: each sends it a signal."""
    spec = BrokerSpec(name=f"t{uuid.uuid4().hex[:8]}", backend="docker", port=0, image=IMAGE)
    broker = DockerBroker(spec, BrokerPaths(tmp_path / "broker"))
    try:
        with locked(broker.paths):
            broker.up()
            apply_changes(broker)
        yield broker
    finally:
        with locked(broker.paths):
            broker.down(volumes=True)


def policy(broker: DockerBroker) -> Verdict:
    """Return what doctor's check `restart-policy` says."""
    return next(iter(host.restart_policy(ExaminedBroker.of(broker)))).verdict


def kill(broker: DockerBroker) -> None:
    """Kill the broker's process as a crash does, and wait until another one runs."""
    running = broker.running()
    assert running is not None
    os.kill(running.pid, signal.SIGKILL)
    wait_until(lambda: (now := broker.running()) is not None and now.pid != running.pid, READY_SECONDS)


def test_a_killed_process_and_a_restarted_engine_leave_the_broker_running(broker: DockerBroker, session_engine: Engine):
    """Neither a reload nor a save marks the container as stopped by hand; `doctor` looks at that mark."""
    profile = profile_of(broker)
    with Probe(profile.port, profile.username, profile.password) as writer:
        writer.publish("kept", b"yes", retain=True)
    assert policy(broker) is Verdict.PASSED
    kill(broker)
    wait_ready(operator_login(profile), seconds=READY_SECONDS, died=lambda: "")
    with Probe(profile.port, profile.username, profile.password) as writer:
        writer.publish("kept", b"yes", retain=True)
    session_engine.restart()
    wait_ready(operator_login(profile), seconds=READY_SECONDS, died=lambda: "")
    with Probe(profile.port, profile.username, profile.password) as reader:
        reader.subscribe("kept")
        assert [message.payload for message in reader.wait_for_messages(1)] == [b"yes"]


def test_doctor_sees_that_the_engine_will_not_restart_a_container_that_docker_kill_signalled(
    broker: DockerBroker, client: Any
):
    if os.geteuid() != 0:
        pytest.skip("only root can see the engine's mark")
    client.containers.get(f"mqttkit-{broker.spec.name}").kill(signal="SIGHUP")
    assert policy(broker) is Verdict.FAILED


def test_the_log_survives_down_and_up_and_a_follower_sees_both_containers(broker: DockerBroker):
    starts = "mosquitto version"
    found: list[str] = []
    arrived = threading.Event()

    def follow() -> None:
        for line in broker.log_lines(tail=0, follow=True):
            found.append(line)
            if starts in line and "running" in line:
                arrived.set()

    follower = threading.Thread(target=follow)
    follower.start()
    before = list(broker.log_lines())
    assert any(starts in line for line in before)
    stop_broker(broker)
    assert set(before) <= set(broker.log_lines())
    with locked(broker.paths):
        broker.up()
    assert arrived.wait(READY_SECONDS), found
    assert any("terminating" in line for line in found)
    lines = list(broker.log_lines())
    assert lines[: len(before)] == before
    assert len([line for line in lines if starts in line and "running" in line]) == 2
    assert list(broker.log_lines(tail=len(lines) - 1))[-3:] == list(broker.log_lines())[-3:]
    with locked(broker.paths):
        broker.down(volumes=True)
    follower.join(READY_SECONDS)
    assert not follower.is_alive()


def test_a_paused_container_is_named_and_saves_before_it_stops(broker: DockerBroker, client: Any):
    client.containers.get(f"mqttkit-{broker.spec.name}").pause()
    assert status_of(broker, profile_of(broker)).state == "paused"
    stop_broker(broker)
    assert status_of(broker, profile_of(broker)).state == "down"


def test_a_container_that_an_unknown_option_ends_is_crash_looping_until_a_restart(broker: DockerBroker):
    """`doctor` names the line, and the next start writes the file again."""
    content = broker.read_file("config/mosquitto.conf") or b""
    broker.write_file("config/mosquitto.conf", content + b"no_such_option 1\n")
    running = broker.running()
    assert running is not None
    os.kill(running.pid, signal.SIGKILL)
    wait_until(lambda: status_of(broker, profile_of(broker)).state == "crash-looping", READY_SECONDS)
    details = [found.detail for found in settings(ExaminedBroker.of(broker))]
    assert any("no_such_option" in detail for detail in details), details
    stop_broker(broker)
    with locked(broker.paths):
        broker.up()
    assert status_of(broker, profile_of(broker)).state == "up"
