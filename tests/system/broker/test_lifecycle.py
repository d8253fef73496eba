"""`mqttkit broker up | down | status` with real brokers, as an operator types them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mqttkit.broker import BrokerPaths, BrokerSpec, Profile, existing_broker, start_broker, temporary_broker
from mqttkit.broker.backends import embedded
from mqttkit.broker.probe import Login, ask, operator_login
from mqttkit.broker.profile import load_profile
from mqttkit.errors import BrokerUnreachable, LifecycleError
from tests.support.brokers import free_port, need
from tests.support.clients import wait_until

pytestmark = pytest.mark.system
MQTTKIT = (sys.executable, "-m", "mqttkit", "broker")
BACKENDS = ("process", "embedded")


def run(*arguments: str, code: int | None = 0) -> subprocess.CompletedProcess[str]:
    """Run `mqttkit broker …` and demand its exit code."""
    done = subprocess.run([*MQTTKIT, *arguments], capture_output=True, text=True, timeout=60, check=False)
    assert code in (None, done.returncode), done.stdout + done.stderr
    return done


def up(*arguments: str) -> Profile:
    """Bring the default broker up on a free port."""
    run("up", "--port", str(free_port()), *arguments)
    profile = load_profile()
    assert profile is not None
    return profile


def works_in(directory: Path) -> list[int]:
    """Return the live processes that work below a directory: the brokers of this test."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and str((entry / "cwd").readlink()).startswith(str(directory)):
                found.append(int(entry.name))
    return found


@pytest.fixture(autouse=True)
def nothing_left(tmp_path: Path) -> Iterator[None]:
    """Stop the broker that a failed test left; a test that passes must not leave one."""
    need("mosquitto")
    yield
    left = works_in(tmp_path)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left, "the test left a broker behind"


@pytest.fixture
def ended() -> Iterator[None]:
    """Take the default broker down after the test."""
    yield
    run("down", "--volumes", "--yes", code=None)


@pytest.mark.parametrize("backend", BACKENDS)
def test_up_returns_when_the_broker_lets_its_operator_in(ended: None, backend: str):
    profile = up("--backend", backend)
    assert ask(operator_login(profile)).accepted


@pytest.mark.parametrize("backend", BACKENDS)
def test_down_leaves_no_process_no_port_and_no_file(backend: str, tmp_path: Path):
    profile = up("--backend", backend)
    assert works_in(tmp_path)
    run("down", "--volumes", "--yes")
    assert not works_in(tmp_path)
    with pytest.raises(BrokerUnreachable):
        ask(operator_login(profile))
    assert not BrokerPaths.of("default").directory.exists()


@pytest.mark.parametrize("backend", BACKENDS)
def test_only_the_generated_password_opens_the_broker(ended: None, backend: str):
    profile = up("--backend", backend)
    for username, password in ((profile.username, "wrong"), ("other", profile.password), (None, None)):
        login = Login(host=profile.host, port=profile.port, username=username, password=password)
        if backend == "embedded":
            with pytest.raises(BrokerUnreachable, match="without a CONNACK"):
                ask(login)
        else:
            assert ask(login).reason == "not authorised"


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_listeners_are_on_loopback_only(ended: None, backend: str):
    sockets = [] if backend == "embedded" else ["--websocket-port", str(free_port())]
    profile = up("--backend", backend, *sockets)
    ports = {profile.port, profile.v5_port, profile.websocket_port} - {None}
    assert len(ports) == 2
    bound = {
        line.split()[1]
        for name in ("tcp", "tcp6")
        for line in Path("/proc/net", name).read_text().splitlines()[1:]
        if line.split()[3] == "0A" and int(line.split()[1].rpartition(":")[2], 16) in ports
    }
    assert bound == {f"0100007F:{port:04X}" for port in ports}


def test_secrets_are_readable_by_their_owner_only_and_never_shown(ended: None):
    profile = up("--backend", "process")
    assert profile.password and profile.probe_password
    said = run("up").stdout + run("status").stdout + run("status", "--json").stdout + run("up", "--json").stdout
    assert profile.password not in said
    broker = existing_broker()
    arguments = Path(f"/proc/{broker.running().pid}/cmdline").read_text()  # type: ignore[union-attr]
    assert profile.password not in arguments
    files = [path for path in broker.paths.directory.rglob("*") if path.is_file()]
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    with_password = [path.name for path in files if profile.password.encode() in path.read_bytes()]
    assert with_password == ["profile.json"]


def test_root_s_broker_runs_as_another_user_that_cannot_read_the_profile(ended: None):
    if os.geteuid() != 0:
        pytest.skip("needs root")
    up("--backend", "process")
    broker = existing_broker()
    running = broker.running()
    assert running is not None
    uid = Path(f"/proc/{running.pid}").stat().st_uid
    assert uid != 0
    assert broker.paths.profile.stat().st_uid == 0
    assert (broker.paths.root / "config/passwd").stat().st_uid == uid


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_second_up_says_so_and_changes_nothing(ended: None, backend: str):
    profile = up("--backend", backend)
    before = existing_broker().running()
    assert "was up already" in run("up").stdout
    assert existing_broker().running() == before
    assert load_profile() == profile


def test_a_second_up_with_other_wishes_is_refused(ended: None):
    profile = up("--backend", "process")
    other = free_port()
    error = run("up", "--port", str(other), code=2).stderr
    assert f"port {profile.port}, not {other}" in error
    assert "set up with backend process" in run("up", "--backend", "embedded", code=2).stderr


def test_a_taken_port_names_the_process_that_holds_it():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        error = run("up", "--backend", "process", "--port", str(port), code=1).stderr
    assert f"port {port} on 127.0.0.1 is taken by" in error
    assert f"(pid {os.getpid()})" in error
    assert not BrokerPaths.of("default").directory.exists()


def test_what_was_asked_for_and_what_was_stored_outlive_down(ended: None):
    profile = up("--backend", "process", "--max-connections", "17")
    publish(profile, "kept", b"yes")
    run("down")
    run("up")
    assert load_profile() == profile
    assert "max_connections 17" in str(existing_broker().read_file("config/mosquitto.conf"))
    assert retained(profile, "kept") == "yes"


def test_status_tells_up_down_and_absent_apart(ended: None):
    assert json.loads(run("status", "--json", code=3).stdout)["state"] == "absent"
    profile = up("--backend", "embedded")
    found = json.loads(run("status", "--json").stdout)
    assert (found["state"], found["port"], found["backend"]) == ("up", profile.port, "embedded")
    assert found["memory_bytes"] > 1_000_000
    assert "no ACL" in run("status").stdout
    run("down")
    assert json.loads(run("status", "--json", code=3).stdout)["state"] == "down"


def test_an_anonymous_broker_lets_anyone_in_but_still_checks_who_claims_a_name(ended: None):
    profile = up("--backend", "process", "--anonymous")
    assert ask(Login(host=profile.host, port=profile.port)).accepted
    assert not ask(Login(host=profile.host, port=profile.port, username="who", password="knows")).accepted


def test_anonymous_can_be_switched_on_and_off_again(ended: None):
    """The ACL follows: its rule for clients without a user name comes and goes, others stay."""
    profile = up("--backend", "process")
    login = Login(host=profile.host, port=profile.port)
    run("restart", "--anonymous")
    assert ask(login).accepted
    assert b"\ntopic readwrite #\n" in (existing_broker().read_file("config/acl") or b"").split(b"user ")[0]
    run("restart", "--no-anonymous")
    assert not ask(login).accepted
    assert b"topic" not in (existing_broker().read_file("config/acl") or b"").split(b"user ")[0]


def test_an_embedded_broker_whose_mqtt_5_port_is_taken_chooses_another(ended: None, monkeypatch: pytest.MonkeyPatch):
    """rumqttd would run on without that listener, and the profile would name another program's port."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        ports = [server.getsockname()[1]]
        nearby = embedded.nearby_free_port
        monkeypatch.setattr(embedded, "nearby_free_port", lambda *at: ports.pop() if ports else nearby(*at))
        monkeypatch.setattr(embedded, "READY_SECONDS", 1.0)
        _, result = start_broker(BrokerSpec(backend="embedded", port=0))
        assert result.profile.v5_port not in (None, server.getsockname()[1])


def test_a_paused_broker_is_taken_down(ended: None, tmp_path: Path):
    up("--backend", "process")
    running = existing_broker().running()
    assert running is not None
    os.kill(running.pid, signal.SIGSTOP)
    assert json.loads(run("status", "--json", code=3).stdout)["state"] == "hung"
    begin = time.monotonic()
    run("down")
    assert time.monotonic() - begin < 20
    assert not works_in(tmp_path)


def test_an_ipv6_address_is_listened_on_and_shown(ended: None):
    if not socket.has_ipv6:
        pytest.skip("no IPv6")
    port = free_port()
    shown = run("up", "--backend", "process", "--listen", "::1", "--port", str(port)).stdout
    assert f"[::1]:{port}" in shown
    assert f"[::1]:{port}" in run("status").stdout


def test_anonymous_beyond_loopback_is_refused_before_anything_is_written():
    error = run("up", "--anonymous", "--listen", "0.0.0.0", code=2).stderr
    assert "--allow-remote-anonymous" in error
    assert not BrokerPaths.of("default").directory.exists()


@pytest.mark.parametrize(
    ("option", "value"), [("--websocket-port", "9001"), ("--tls-port", "8883"), ("--profile", "small")]
)
def test_the_embedded_backend_refuses_by_name_what_it_lacks(option: str, value: str):
    error = run("up", "--backend", "embedded", option, value, code=2).stderr
    assert "not possible with the embedded backend" in error
    assert not BrokerPaths.of("default").directory.exists()


def test_an_unwritable_data_directory_is_found_at_up_not_at_the_first_save(ended: None):
    """mosquitto starts without a word and loses everything at its first save."""
    up("--backend", "process")
    run("down")
    data = existing_broker().paths.root / "data"
    (data / "mosquitto.db").unlink()
    (data / "mosquitto.db.new").mkdir()
    (data / "mosquitto.db.new" / "in-the-way").touch()
    error = run("up", code=1).stderr
    assert "cannot save" in error
    assert json.loads(run("status", "--json", code=3).stdout)["state"] == "down"


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("seconds", [0.1, 0.2, 0.3, 0.4])
def test_a_killed_up_leaves_nothing_that_the_next_commands_do_not_mend(
    ended: None, backend: str, seconds: float, tmp_path: Path
):
    """However far `up` came before SIGKILL, the next `up` gives one working broker, `down` none."""
    port = str(free_port())
    command = [*MQTTKIT, "up", "--backend", backend, "--port", port]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as child:
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(seconds)
        child.kill()
    profile = up_again(backend, port)
    assert len(works_in(tmp_path)) == 1
    assert ask(operator_login(profile)).accepted


def up_again(backend: str, port: str) -> Profile:
    run("up", "--backend", backend, "--port", port)
    profile = load_profile()
    assert profile is not None
    return profile


def test_single_settings_that_beat_a_new_tuning_profile_are_named_and_dropped_on_request(ended: None):
    up("--backend", "process", "--max-connections", "200")
    error = run("restart", "--profile", "small").stderr
    assert "keep their own values beside the profile: max_connections 200" in error
    conf = existing_broker().paths.root / "config/mosquitto.conf"
    assert "max_connections 200\n" in conf.read_text()
    assert "keep their own" not in run("restart", "--profile", "small", "--max-connections", "150").stderr
    assert "keep their own" not in run("restart", "--reset").stderr
    assert "max_connections 100\n" in conf.read_text()


def test_a_lost_profile_gets_the_operator_a_new_password(ended: None):
    """A killed `up` may have written the password file and not yet the profile."""
    profile = up("--backend", "process")
    run("down")
    existing_broker().paths.profile.unlink()
    run("up")
    after = load_profile()
    assert after is not None
    assert after.password != profile.password
    assert ask(operator_login(after)).accepted
    assert not ask(operator_login(profile)).accepted


def test_a_broker_whose_pid_file_was_lost_is_found_by_where_it_works(ended: None, tmp_path: Path):
    up("--backend", "process")
    broker = existing_broker()
    broker.paths.pid.unlink()
    assert "was up already" in run("up").stdout
    assert len(works_in(tmp_path)) == 1


@pytest.fixture
def mute_mosquitto() -> Iterator[Path]:
    """A directory with a mosquitto that starts and never listens; the broker's user may run it."""
    with tempfile.TemporaryDirectory() as directory:
        program = Path(directory, "mosquitto")
        program.write_text("#!/bin/sh\n[ $1 = -h ] && echo mosquitto version 2.0.11 && exit\nexec sleep 60\n")
        program.chmod(0o755)
        Path(directory).chmod(0o755)
        yield Path(directory)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_undoes_an_up_under_way(number: int, mute_mosquitto: Path, tmp_path: Path):
    environment = {**os.environ, "PATH": f"{mute_mosquitto}:{os.environ['PATH']}"}
    command = [*MQTTKIT, "up", "--backend", "process", "--port", str(free_port())]
    paths = BrokerPaths.of("default")
    with subprocess.Popen(command, env=environment) as child:
        deadline = time.monotonic() + 20
        while not paths.pid.exists():
            assert child.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        child.send_signal(number)
        assert child.wait(60) == 130
    assert not works_in(tmp_path / "state")
    assert not paths.directory.exists()


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_temporary_broker_leaves_nothing_even_when_the_block_fails(
    backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    place = tmp_path / "temporary"
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    with pytest.raises(LifecycleError, match="from the block"), temporary_broker(backend) as profile:
        assert ask(operator_login(profile)).accepted
        assert len(list(place.glob("mqttkit-broker-*"))) == 1
        raise LifecycleError("from the block")
    with pytest.raises(BrokerUnreachable):
        ask(operator_login(profile))
    assert not list(place.iterdir())
    assert load_profile() is None


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_temporary_broker_ends_with_a_program_that_is_killed(backend: str, tmp_path: Path):
    code = (
        "from mqttkit.broker import temporary_broker\n"
        f"with temporary_broker({backend!r}) as p:\n    print(p.port, p.password, flush=True)\n    input()"
    )
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment) as child:
        assert child.stdout is not None
        assert child.stdout.readline()
        child.kill()
    deadline = time.monotonic() + 20
    while works_in(tmp_path):
        assert time.monotonic() < deadline, "the broker outlived its program"
        time.sleep(0.05)


def publish(profile: Profile, topic: str, payload: bytes) -> None:
    command = [need("mosquitto_pub"), "-p", str(profile.port), "-t", topic, "-r", "-q", "1", "-s"]
    login = ["-u", str(profile.username), "-P", str(profile.password)]
    subprocess.run([*command, *login], input=payload, check=True, timeout=60)


def retained(profile: Profile, topic: str) -> str:
    command = [need("mosquitto_sub"), "-p", str(profile.port), "-t", topic, "-C", "1", "-W", "5"]
    login = ["-u", str(profile.username), "-P", str(profile.password)]
    done = subprocess.run([*command, *login], capture_output=True, text=True, check=True, timeout=60)
    return done.stdout.strip()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_interrupted_verify_leaves_no_throwaway_broker_and_no_copy_of_the_backup(
    ended: None, tmp_path: Path, number: signal.Signals
):
    """The copy holds messages and password hashes."""
    up("--backend", "process")
    archive, scratch = tmp_path / "backup.tar", tmp_path / "scratch"
    run("backup", "create", str(archive))
    scratch.mkdir()
    command = [*MQTTKIT, "backup", "verify", str(archive)]
    with subprocess.Popen(command, env={**os.environ, "TMPDIR": str(scratch)}, stderr=subprocess.DEVNULL) as child:
        wait_until(lambda: works_in(scratch) or child.poll() is not None)
        assert list(scratch.iterdir())
        child.send_signal(number)
        assert child.wait(60) == 130
    assert not list(scratch.iterdir())
    assert not works_in(scratch)
