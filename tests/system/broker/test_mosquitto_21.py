"""mosquitto 2.1 from Debian sid: its plugins, its hashes, its reload. `make sid` prepares it."""

from __future__ import annotations

import os
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from argon2 import PasswordHasher

from mqttkit.broker import Broker, BrokerSpec, existing_broker, restart_broker, start_broker, stop_broker
from mqttkit.broker.accounts.passwords import PasswordFile
from mqttkit.broker.backends.docker.container_plan import HEALTH_COMMAND
from mqttkit.broker.backends.docker.engine import connect_engine, execute
from mqttkit.broker.backup import create_backup, restore_backup
from mqttkit.broker.doctor.checklist import examine
from mqttkit.broker.doctor.findings import Verdict
from mqttkit.broker.live.accounts import change_accounts
from mqttkit.broker.live.reload import apply_changes
from mqttkit.broker.probe import ask, operator_login
from mqttkit.broker.profile import locked
from mqttkit.errors import LifecycleError, UsageError
from tests.support.brokers import free_port, profile_of
from tests.support.probe import Probe, login
from tests.support.sid import sid_image, sid_programs

pytestmark = pytest.mark.system
NOT_AUTHORISED = 135
PLACES = ["broker", pytest.param("container", marks=pytest.mark.xdist_group("docker"))]


@pytest.fixture
def programs(monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let mqttkit find sid's mosquitto first."""
    place = sid_programs()
    monkeypatch.setenv("PATH", f"{place}{os.pathsep}{os.environ['PATH']}")
    return place


@pytest.fixture
def container(client: Any, docker_host: str) -> Iterator[Broker]:
    """A broker of version 2.1 in a container."""
    assert client.ping()
    spec = BrokerSpec(name=f"c{uuid.uuid4().hex[:8]}", image=sid_image(docker_host), port=0)
    broker, _ = start_broker(spec)
    try:
        yield broker
    finally:
        stop_broker(broker, volumes=True)


@pytest.fixture
def broker(programs: Path) -> Iterator[Broker]:
    """A broker of version 2.1 with each listener."""
    spec = BrokerSpec(backend="process", port=0, tls_port=free_port(), websocket_port=free_port())
    broker, _ = start_broker(spec)
    try:
        yield broker
    finally:
        stop_broker(broker, volumes=True)


def test_the_configuration_uses_plugins_instead_of_deprecated_options(broker: Broker):
    assert broker.version() >= (2, 1)
    lines = (broker.read_file("config/mosquitto.conf") or b"").decode().splitlines()
    assert "plugin_opt_password_file config/passwd" in lines
    assert "plugin_opt_acl_file config/acl" in lines
    assert not [line for line in lines if line.startswith(("password_file", "acl_file"))]
    assert not [line for line in broker.log_lines() if "deprecated" in line.lower()]


def test_doctor_fails_no_check_and_its_own_tls_checks_do_not_count(broker: Broker):
    for _ in range(2):
        found = list(examine(broker))
        assert not [one for one in found if one.verdict is Verdict.FAILED]
        assert [one.verdict for one in found if one.check == "log"] == [Verdict.PASSED]


def test_users_and_rights_change_while_it_runs_and_survive_a_restart(broker: Broker):
    change_accounts(broker, lambda files: files.add("lamp", "a long pass phrase", role="device"))
    profile = profile_of(broker)
    with Probe(profile.port, "lamp", "a long pass phrase") as lamp:
        assert lamp.publish("sensors/lamp/t", retain=True) in (0, 16)
        assert lamp.publish("sensors/other/t") == NOT_AUTHORISED
    stop_broker(broker)
    with locked(broker.paths):
        broker.up()
    with Probe(profile.port, profile.username, profile.password) as reader:
        reader.subscribe("sensors/#")
        assert [message.topic for message in reader.wait_for_messages(1)] == ["sensors/lamp/t"]


def test_a_hash_of_its_own_mosquitto_passwd_is_accepted(broker: Broker, programs: Path, tmp_path: Path):
    """Argon2id, or in a build without it (Debian's) PBKDF2 with a salt of 64 bytes."""
    made = tmp_path / "passwd"
    made.touch(0o600)
    command = [str(programs / "mosquitto_passwd"), "-b", str(made), "lamp", "a long pass phrase"]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    line = made.read_bytes()
    assert PasswordFile.parse(line.decode()).hashes["lamp"].needs_new_broker
    with locked(broker.paths):
        apply_changes(broker, {"config/passwd": (broker.read_file("config/passwd") or b"") + line})
    assert login(profile_of(broker).port, "lamp", "a long pass phrase") == 0
    assert login(profile_of(broker).port, "lamp", "another") == NOT_AUTHORISED


@pytest.mark.parametrize("place", PLACES)
def test_a_hash_that_this_build_cannot_read_leaves_the_broker_running_with_its_old_files(
    request: pytest.FixtureRequest, place: str
):
    """Debian's build has no Argon2: it ends at the reload, and Docker starts it again with the new files."""
    broker: Broker = request.getfixturevalue(place)
    before = broker.read_file("config/passwd") or b""
    hashed = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash("a long pass phrase")
    with locked(broker.paths), pytest.raises(LifecycleError, match="it starts again with the old ones"):
        apply_changes(broker, {"config/passwd": before + f"lamp:{hashed}\n".encode()})
    assert broker.read_file("config/passwd") == before
    assert ask(operator_login(profile_of(broker))).accepted


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", ["config/acl", "config/passwd"])
def test_a_broken_file_is_rejected_before_the_reload_that_would_end_the_broker(
    request: pytest.FixtureRequest, place: str, name: str
):
    broker: Broker = request.getfixturevalue(place)
    content = (broker.read_file(name) or b"") + b"nonsense\n"
    with locked(broker.paths), pytest.raises(UsageError):
        apply_changes(broker, {name: content})
    assert ask(operator_login(profile_of(broker))).accepted


def test_an_anonymous_broker_still_refuses_wrong_credentials(programs: Path):
    broker, result = start_broker(BrokerSpec(backend="process", port=0, anonymous=True))
    try:
        assert login(result.profile.port, None, None) == 0
        assert login(result.profile.port, "stranger", "guess") == NOT_AUTHORISED
    finally:
        stop_broker(broker, volumes=True)


def test_a_container_uses_the_plugins_and_keeps_users_and_messages(container: Broker):
    """Reload, restart, health check and `doctor`, as with the older version."""
    assert container.backend == "docker"
    assert container.version() >= (2, 1)
    lines = (container.read_file("config/mosquitto.conf") or b"").decode().splitlines()
    assert "plugin_opt_password_file /mosquitto/config/passwd" in lines
    assert not [line for line in lines if line.startswith(("password_file", "acl_file"))]
    change_accounts(container, lambda files: files.add("lamp", "a long pass phrase", role="device"))
    profile = profile_of(container)
    with Probe(profile.port, "lamp", "a long pass phrase") as lamp:
        assert lamp.publish("sensors/lamp/t", retain=True) in (0, 16)
        assert lamp.publish("sensors/other/t") == NOT_AUTHORISED
    restart_broker(container.spec)
    with Probe(profile.port, profile.username, profile.password) as reader:
        reader.subscribe("sensors/#")
        assert [message.topic for message in reader.wait_for_messages(1)] == ["sensors/lamp/t"]
    assert not [line for line in container.log_lines() if "deprecated" in line.lower()]
    with connect_engine() as engine:
        assert execute(engine.containers.get(f"mqttkit-{container.spec.name}"), "sh", "-c", HEALTH_COMMAND)[1] == 0
    assert not [one for one in examine(container) if one.verdict is Verdict.FAILED]


def test_a_backup_of_a_container_is_restored(container: Broker, tmp_path: Path):
    change_accounts(container, lambda files: files.add("lamp", "a long pass phrase", role="device"))
    profile = profile_of(container)
    with Probe(profile.port, "lamp", "a long pass phrase") as lamp:
        assert lamp.publish("sensors/lamp/t", retain=True) in (0, 16)
    create_backup(container, tmp_path / "archive")
    stop_broker(container, volumes=True)
    restore_backup(container, tmp_path / "archive")
    start_broker(existing_broker(container.spec.name).spec)
    profile = profile_of(container)
    with Probe(profile.port, "lamp", "a long pass phrase") as lamp:
        assert lamp.publish("sensors/other/t") == NOT_AUTHORISED
    with Probe(profile.port, profile.username, profile.password) as reader:
        reader.subscribe("sensors/#")
        assert [message.topic for message in reader.wait_for_messages(1)] == ["sensors/lamp/t"]
