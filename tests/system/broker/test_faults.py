"""What a broker survives.

A killed or paused process, a full disk, a read-only directory, replaced files, a wrong owner, two `up` at the same
time, a clock that jumps, damaged state files, a port taken between choice and start, an engine that hangs.

A killed container and a restarted engine are in `test_docker_recovery.py`.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mqttkit.broker import Broker, BrokerPaths, BrokerSpec, existing_broker, start_broker, stop_broker
from mqttkit.broker.backends import local_process
from mqttkit.broker.backends.local_process import LocalBroker
from mqttkit.broker.backends.process_table import ProcessId
from mqttkit.broker.probe import ask, operator_login
from mqttkit.broker.profile import locked, save_spec
from mqttkit.errors import UsageError
from tests.support.brokers import free_port, missing, need, profile_of
from tests.support.probe import Probe

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(os.geteuid() != 0, reason="a full disk, another owner and a paused broker need root"),
]


def run(*arguments: str, code: int | None = 0, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run `mqttkit broker …` and require its exit code."""
    command = [sys.executable, "-m", "mqttkit", "broker", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False, env=env)
    assert code in (None, done.returncode), done.stdout + done.stderr
    return done


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


def test_a_hand_copied_file_that_the_broker_cannot_read_is_repaired_before_a_reload(broker: Broker):
    """mosquitto would report it and drop every ACL check."""
    acl = broker.paths.root / "config/acl"
    content = acl.read_bytes()
    acl.unlink()
    acl.write_bytes(content)
    acl.chmod(0o600)
    assert acl.stat().st_uid == 0
    assert "config/acl belongs to uid 0" in run("reload").stderr
    assert acl.stat().st_uid != 0
    assert answers(broker)


def test_up_repairs_owner_and_mode_of_every_file(broker: Broker):
    run("down")
    wrong = [broker.paths.root / name for name in ("config", "config/passwd", "data", "data/mosquitto.db")]
    for path in wrong:
        os.chown(path, 0, 0)
        path.chmod(0o755)
    run("up")
    owners = {path.stat().st_uid for path in wrong}
    assert 0 not in owners
    assert {path.stat().st_mode & 0o777 for path in wrong} == {0o600, 0o700}


def test_a_profile_that_others_could_read_is_private_after_the_next_command(broker: Broker):
    broker.paths.profile.chmod(0o644)
    assert "could read its passwords" in run("status").stderr
    assert broker.paths.profile.stat().st_mode & 0o777 == 0o600
    assert "could read" not in run("status").stderr


def test_a_fifo_in_place_of_a_file_is_an_error_and_hangs_nothing(broker: Broker):
    run("down")
    acl = broker.paths.root / "config/acl"
    acl.unlink()
    os.mkfifo(acl)
    assert "not a regular file" in run("up", code=2).stderr
    acl.unlink()
    run("up")


def test_two_commands_never_hold_the_lock_of_one_directory(tmp_path: Path):
    """The directory is removed before the lock is released, so that the next holder locks another directory."""
    paths = BrokerPaths(tmp_path / "broker")
    inside, most = [0], [0]

    def work() -> None:
        for _ in range(40):
            with locked(paths):
                inside[0] += 1
                most[0] = max(most[0], inside[0])
                inside[0] -= 1

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert most == [1]


def test_status_has_a_word_for_a_stopped_process_and_for_taken_connections(broker: Broker):
    """The exit code is 3, and --json prints an object, whatever happens."""
    run("restart", "--max-connections", "2")
    profile = profile_of(broker)
    login = (profile.port, profile.username, profile.password)
    with Probe(*login, client_id="one"), Probe(*login, client_id="two"), Probe(*login, client_id="three"):
        assert json.loads(run("status", "--json", code=3).stdout)["state"] == "full"
    running = broker.running()
    assert running is not None
    os.kill(running.pid, signal.SIGSTOP)
    assert json.loads(run("status", "--json", code=3).stdout)["state"] == "hung"
    os.kill(running.pid, signal.SIGCONT)
    run("status")
    run("down")
    assert "is not running" in run("stats", code=3).stderr


def test_damaged_state_files_are_named_with_a_remedy_that_keeps_users_and_data(broker: Broker):
    keep(broker)
    run("down")
    for path in (broker.paths.profile, broker.paths.spec):
        path.write_text("{")
        found = json.loads(run("status", "--json", code=3).stdout)
        assert found["state"] == "unreadable"
        assert str(path) in found["trouble"]
        assert "remove the file" in run("up", code=1).stderr
        path.unlink()
        run("up", "--backend", "process", "--port", str(free_port()))
        assert kept(broker) == ["kept"]
        run("down")


def test_a_running_broker_whose_settings_are_lost_gets_no_second_one_beside_it(broker: Broker):
    keep(broker)
    before = broker.running()
    assert before is not None
    broker.paths.spec.unlink()
    assert "its settings are lost" in run("up", "--port", "0").stderr
    after = existing_broker().running()
    assert after is not None
    assert not Path(f"/proc/{before.pid}").exists() or after.pid == before.pid
    assert kept(broker) == ["kept"]


def test_an_engine_that_hangs_is_away_within_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """It accepts the connection and says nothing."""
    with socket.socket(socket.AF_UNIX) as engine:
        engine.bind(f"{tmp_path}/docker.sock")
        engine.listen()
        monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/docker.sock")
        paths = BrokerPaths.of("default")
        paths.directory.mkdir(parents=True)
        save_spec(paths, BrokerSpec(backend="docker"))
        begin = time.monotonic()
        assert json.loads(run("status", "--json", code=3).stdout)["state"] == "engine-away"
        assert time.monotonic() - begin < 15, "5 s are the aim, with room for a busy machine"


def test_doctor_names_the_lines_of_the_configuration_that_were_changed_by_hand(broker: Broker):
    conf = broker.paths.root / "config/mosquitto.conf"
    text = conf.read_text().replace("sys_interval 2", "sys_interval 20")
    conf.write_text(text)
    found = json.loads(run("doctor", "--json", code=None).stdout)["findings"]
    details = [finding["detail"] for finding in found if finding["check"] == "settings"]
    assert any("'sys_interval 20'" in detail for detail in details), details
    assert any("'sys_interval 2' is missing" in detail for detail in details)


def test_a_port_below_1024_is_refused_with_the_reason(broker: Broker):
    error = run("up", "--name", "low", "--backend", "process", "--port", "22", code=None).stderr
    assert "needs root, but the broker runs as" in error


def test_up_with_another_port_on_a_running_broker_suggests_restart(broker: Broker):
    assert "mqttkit broker restart" in run("up", "--port", str(free_port()), code=2).stderr


def test_denied_publishes_are_logged_and_shown_on_demand(broker: Broker):
    assert "--log-type debug" in run("logs", "--denied").stderr
    run("restart", "--log-type", "debug")
    password = run("user", "add", "lamp", "--role", "device", "--generate").stdout.strip()
    with Probe(profile_of(broker).port, "lamp", password) as lamp:
        lamp.publish("secret/topic")
    lines = run("logs", "--denied").stdout.splitlines()
    assert lines
    assert all("lamp" in line or "secret/topic" in line or "canary" in line for line in lines)


def test_a_typo_in_the_acl_is_named_edited_and_reset(broker: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """`acl check` names the line; `acl edit` rejects an invalid file; `acl reset` drops the invalid lines."""
    acl = broker.paths.root / "config/acl"
    good = broker.read_file("config/acl") or b""
    broker.write_file("config/acl", good + b"\nusr lamp\ntopic readwrite everything/#\n")
    number = good.count(b"\n") + 2
    assert f"config/acl:{number}: 'usr' is not" in run("acl", "check", "mqttkit", "read", "a", code=2).stderr
    editor = tmp_path / "editor"
    editor.write_text("#!/bin/sh\necho 'topic raed x' >>\"$1\"\n")
    editor.chmod(0o755)
    monkeypatch.setenv("EDITOR", str(editor))
    assert "nothing was changed" in run("acl", "edit", code=2).stderr
    assert b"usr" in acl.read_bytes()
    dropped = run("acl", "reset").stdout
    assert "usr lamp" in dropped
    assert "everything/#" in dropped
    assert b"everything" not in acl.read_bytes()
    run("acl", "check", "mqttkit", "read", "a")


def test_lost_users_and_messages_are_reported_when_the_broker_starts(broker: Broker):
    run("down")
    (broker.paths.root / "config/passwd").unlink()
    (broker.paths.root / "data/mosquitto.db").unlink()
    error = run("up").stderr
    assert "config/passwd is missing" in error
    assert "data/mosquitto.db is missing" in error


def test_persistence_that_is_turned_on_again_reports_no_loss(broker: Broker):
    run("restart", "--no-persistence")
    (broker.paths.root / "data/mosquitto.db").unlink()
    assert "missing" not in run("restart", "--persistence").stderr


def test_a_new_end_of_absent_sessions_is_announced_once(broker: Broker):
    """A broker of an older mqttkit kept them forever."""
    content = broker.read_file("config/mosquitto.conf") or b""
    broker.write_file("config/mosquitto.conf", content.replace(b"persistent_client_expiration 365d\n", b""))
    error = run("restart").stderr
    assert "now ends after 365 days" in error
    assert "--persistent-client-expiration" in error
    assert "365 days" not in run("restart").stderr


def test_a_bridge_is_not_added_on_a_full_disk(disk: Path, broker: Broker):
    """Neither if the settings do not fit, nor if only they fit and the broker could not start again."""
    ballast = fill(disk)
    adding = ("bridge", "add", "up", "--to", "mqtt://127.0.0.1", "--topic", "site/#", "--no-test")
    assert "no space left to write" in run(*adding, code=1).stderr
    os.truncate(ballast, ballast.stat().st_size - 3 * 4096)
    assert "could not start again" in run(*adding, code=1).stderr
    assert answers(broker)
    assert json.loads(run("bridge", "list", "--json").stdout) == []


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


def test_two_ups_at_the_same_time_make_one_broker(broker: Broker):
    run("down")
    command = [sys.executable, "-m", "mqttkit", "broker", "up"]
    children = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    said = sorted(child.communicate(timeout=90)[0].splitlines()[0].split(",")[0] for child in children)
    assert [child.returncode for child in children] == [0, 0, 0]
    assert said == ["broker default is up", *["broker default was up already"] * 2]
    assert answers(broker)


@pytest.mark.parametrize("backend", ("process", "embedded"))
def test_an_automatic_port_taken_before_the_broker_listens_is_chosen_again(
    monkeypatch: pytest.MonkeyPatch, backend: str
):
    """Another program takes the port between choice and start: `up` tries another one and reports nothing."""
    launch, taken_ports = LocalBroker._launch, []

    def launch_late(self: LocalBroker) -> ProcessId:
        if not taken_ports:
            taken_ports.append(self.spec.port)
            taken.enter_context(socket.create_server(("127.0.0.1", self.spec.port)))
        return launch(self)

    monkeypatch.setattr(LocalBroker, "_launch", launch_late)
    monkeypatch.setattr(local_process, "READY_SECONDS", 5.0)
    with contextlib.ExitStack() as taken:
        broker, result = start_broker(BrokerSpec(name="late", backend=backend, port=0))
        taken.callback(stop_broker, broker, volumes=True)
        assert result.profile.port not in taken_ports
        assert ask(operator_login(result.profile)).accepted
        assert broker.spec.automatic_ports == ("port",)


def test_a_directory_replaced_by_a_link_does_not_lead_root_to_another_file(broker: Broker, tmp_path: Path):
    """The broker's user owns root/, and may replace root/config by a symbolic link: `write_file` refuses."""
    run("down")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "passwd").write_text("precious")
    (broker.paths.root / "config").rename(broker.paths.root / "aside")
    (broker.paths.root / "config").symlink_to(tmp_path / "foreign")
    with pytest.raises(UsageError, match="symbolic link"):
        broker.write_file("config/passwd", b"root:everything")
    assert "symbolic link" in run("up", code=2).stderr
    assert (tmp_path / "foreign" / "passwd").read_text() == "precious"
    assert [entry.name for entry in (tmp_path / "foreign").iterdir()] == ["passwd"]
    shutil.rmtree(tmp_path / "foreign")
    (broker.paths.root / "config").unlink()
    (broker.paths.root / "aside").rename(broker.paths.root / "config")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], dict[str, str]]]:
    """A function that makes the clock of brokers started meanwhile jump, such as by `+30d`.

    It returns the environment in which a command has the same clock. The machine's own clock stays.
    """
    library, real = Path("/usr/lib", f"{os.uname().machine}-linux-gnu/faketime/libfaketimeMT.so.1"), need("mosquitto")
    if not library.exists():
        missing("libfaketime is not installed")
    with tempfile.TemporaryDirectory() as directory:
        offset, program = Path(directory, "offset"), Path(directory, "mosquitto")
        variables = f"LD_PRELOAD={library} FAKETIME_TIMESTAMP_FILE={offset} FAKETIME_NO_CACHE=1"
        program.write_text(f'#!/bin/sh\nexec env {variables} FAKETIME_DONT_FAKE_MONOTONIC=1 {real} "$@"\n')
        for path, mode in ((offset.parent, 0o755), (program, 0o755)):
            path.chmod(mode)
        monkeypatch.setenv("PATH", f"{directory}{os.pathsep}{os.environ['PATH']}")

        def jump(by: str) -> dict[str, str]:
            offset.write_text(by)
            return {**os.environ, "LD_PRELOAD": str(library), "FAKETIME": by}

        jump("+0")
        yield jump


def test_a_clock_that_jumps_loses_nothing(clock: Callable[[str], dict[str, str]], broker: Broker):
    """Forward, as NTP does on a machine without a battery, and back: status, save, restart and login work."""
    keep(broker)
    for direction, by in (("forward", "+30d"), ("back", "-30d")):
        environment = clock(by)
        found = json.loads(run("status", "--json", env=environment).stdout)
        assert found["state"] == "up"
        assert found["uptime"] >= 0
        keep(broker, direction)
        run("restart", env=environment)
        assert {"kept", direction} <= set(kept(broker))
    lines = list(broker.log_lines())
    year, month = time.strftime("%Y %m", time.localtime(time.time() - 30 * 86_400)).split()
    assert any(line.startswith(f"{year}-{month}") for line in lines), "the broker's clock has jumped"
