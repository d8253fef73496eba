"""`mqttkit broker restart | reload | status | stats | logs` with real brokers."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mqttkit.broker import BrokerPaths, BrokerSpec, existing_broker, lifecycle
from mqttkit.broker.ports import bound_addresses
from mqttkit.broker.probe import Login, ask, operator_login
from mqttkit.broker.profile import load_profile, locked
from tests.support.brokers import free_port, need
from tests.support.commands import invoke
from tests.system.broker.test_lifecycle import MQTTKIT, publish, retained, run, up

pytestmark = pytest.mark.system


@contextlib.contextmanager
def started(command: list[str]) -> Iterator[subprocess.Popen[str]]:
    """Start a command, and kill it when the test is over, also if it fails."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        try:
            yield child
        finally:
            child.kill()


@pytest.fixture
def process() -> Iterator[None]:
    """The default broker as a native mosquitto."""
    need("mosquitto")
    up("--backend", "process")
    yield
    run("down", "--volumes", "--yes", code=None)


@pytest.fixture
def embedded() -> Iterator[None]:
    """The default broker embedded."""
    up("--backend", "embedded")
    yield
    run("down", "--volumes", "--yes", code=None)


def test_restart_changes_what_is_asked_for_and_keeps_the_rest(process: None):
    profile = load_profile()
    assert profile is not None
    publish(profile, "kept", b"yes")
    before = existing_broker().running()
    port = free_port()
    run("restart", "--port", str(port), "--max-inflight-messages", "7")
    after = load_profile()
    assert after is not None
    assert (after.port, after.password) == (port, profile.password)
    assert existing_broker().running() != before
    assert "max_inflight_messages 7\n" in (existing_broker().read_file("config/mosquitto.conf") or b"").decode()
    assert retained(after, "kept") == "yes"


@pytest.mark.parametrize("option", ["--port", "--websocket-port"])
def test_a_restart_that_cannot_work_leaves_the_broker_running(process: None, option: str):
    before = existing_broker().running()
    with socket.create_server(("127.0.0.1", 0)) as server:
        run("restart", option, str(server.getsockname()[1]), code=1)
    run("restart", "--backend", "embedded", code=2)
    run("restart", "--max-connections", "0", code=2)
    run("restart", "--anonymous", "--listen", "0.0.0.0", code=2)
    assert existing_broker().running() == before


@pytest.mark.parametrize("name", ["config/acl", "config/passwd"])
def test_a_restart_with_broken_files_leaves_the_broker_running(process: None, name: str):
    """mosquitto would not start with them, and the broker would be down."""
    broker = existing_broker()
    before = broker.running()
    broker.write_file(name, b"nonsense\n")
    assert f"{name}:1" in run("restart", code=2).stderr
    assert broker.running() == before


def test_a_restart_writes_lost_files_anew(process: None):
    profile = load_profile()
    assert profile is not None
    broker = existing_broker()
    broker.remove_file("config/acl")
    broker.remove_file("config/passwd")
    run("restart")
    assert ask(operator_login(profile)).accepted


@pytest.mark.parametrize("command", ["reload", "restart"])
def test_a_symbolic_link_in_place_of_the_users_is_refused(process: None, command: str, tmp_path: Path):
    """The broker goes on as it was, and what the link points to is not touched."""
    broker = existing_broker()
    before = broker.running()
    passwd = broker.paths.root / "config/passwd"
    passwd.rename(tmp_path / "elsewhere")
    content = (tmp_path / "elsewhere").read_bytes()
    passwd.symlink_to(tmp_path / "elsewhere")
    assert "symbolic link" in run(command, code=2).stderr
    assert broker.running() == before
    assert (tmp_path / "elsewhere").read_bytes() == content
    run("down")
    assert "symbolic link" in run("up", code=2).stderr
    assert broker.running() is None


def test_a_restart_that_fails_half_way_brings_the_old_broker_back(process: None):
    """A certificate that cannot be read is found by mosquitto itself: the broker is down by then."""
    profile = load_profile()
    assert profile is not None
    broker = existing_broker()
    broker.write_file("config/certs/server.crt", b"none")
    broker.write_file("config/certs/server.key", b"none")
    broker.write_file("config/certs/ca.crt", b"none")
    error = run("restart", "--tls-port", str(free_port()), code=1).stderr
    assert "ended while starting" in error
    assert ask(operator_login(profile)).accepted
    assert load_profile() == profile


def test_up_with_a_tls_port_makes_a_certificate_of_an_authority_of_its_own(process: None):
    port = free_port()
    run("restart", "--tls-port", str(port))
    profile = load_profile()
    assert profile is not None and profile.ca_file
    context = ssl.create_default_context(cafile=profile.ca_file)
    settings = Login(host="127.0.0.1", port=port, username=profile.username, password=profile.password, tls=context)
    assert ask(settings).accepted
    run("restart")
    assert ask(settings).accepted


def test_a_listener_goes_as_it_came(process: None):
    websocket = free_port()
    run("restart", "--websocket-port", str(websocket), "--tls-port", str(free_port()))
    assert bound_addresses(websocket) == {"127.0.0.1"}
    run("restart", "--websocket-port", "0", "--tls-port", "0")
    assert not bound_addresses(websocket)
    found = json.loads(run("status", "--json").stdout)
    assert (found["websocket_port"], found["tls_port"]) == (None, None)


def test_a_failed_first_up_leaves_what_was_there_before():
    """`cert init` may come before the first `up`: its authority stays, the rest goes."""
    run("cert", "init")
    directory = BrokerPaths.of("default").directory
    before = {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}
    assert before
    with socket.create_server(("127.0.0.1", 0)) as server:
        run("up", "--backend", "process", "--port", str(server.getsockname()[1]), code=1)
    run("up", "--backend", "embedded", "--port", str(free_port()), "--websocket-port", str(free_port()), code=2)
    assert {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()} == before


def test_removing_the_data_asks_first(process: None):
    for answer in ("", "n\n"):
        done = subprocess.run([*MQTTKIT, "down", "--volumes"], input=answer, capture_output=True, text=True, timeout=60)
        assert done.returncode == 2
        assert "nothing was removed" in done.stderr
    run("status")
    done = subprocess.run([*MQTTKIT, "down", "--volumes"], input="y\n", capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    run("status", code=3)


def test_reload_says_that_the_broker_is_still_closed(process: None):
    assert "still denies strangers" in run("reload").stdout
    broker = existing_broker()
    with locked(broker.paths):
        broker.write_file("config/acl", b"topic raed x\n")
    assert "config/acl:1" in run("reload", code=2).stderr


def test_status_counts_clients_memory_and_the_last_save(process: None):
    found = json.loads(run("status", "--json").stdout)
    assert found["memory_bytes"] > 1_000_000
    assert found["connections"] >= 0
    assert found["last_save"] > 1_700_000_000
    assert found["cpu_percent"] >= 0
    assert "last save" in run("status").stdout


def test_stats_are_live(process: None):
    """Five clients that connect, publish and disconnect between two updates are counted by a later one."""
    profile = load_profile()
    assert profile is not None
    command = [*MQTTKIT, "stats", "--follow", "--json"]
    with started(command) as child:
        assert child.stdout is not None
        first = json.loads(child.stdout.readline())
        for number in range(5):
            publish(profile, f"count/{number}", b"x")
        for line in child.stdout:
            if json.loads(line)["packets_received"] >= first["packets_received"] + 15:
                break
        child.send_signal(signal.SIGINT)
        assert child.wait(60) == 130


def test_stats_end_when_the_broker_does(process: None):
    with started([*MQTTKIT, "stats", "--follow"]) as child:
        assert child.stdout is not None
        assert child.stdout.readline()
        run("down")
        assert child.wait(60) == 3


def test_stats_and_reload_are_refused_by_name_where_the_backend_lacks_them(embedded: None):
    assert "no $SYS topics" in run("stats", code=2).stderr
    assert "no reload" in run("reload", code=2).stderr


def test_logs_end_or_follow(process: None):
    lines = run("logs").stdout.splitlines()
    assert run("logs", "--tail", "2").stdout.splitlines() == lines[-2:]
    assert not run("logs", "--tail", "0").stdout
    command = [*MQTTKIT, "logs", "--tail", "1", "--follow", "--json"]
    with started(command) as child:
        assert child.stdout is not None
        assert json.loads(child.stdout.readline())["message"] in lines[-1]
        profile = load_profile()
        assert profile is not None
        publish(profile, "x", b"x")
        assert "New connection" in json.loads(child.stdout.readline())["message"]
        run("restart")
        assert any("terminating" in line for line in child.stdout)
        assert any(re.search(r"mosquitto version .* running", line) for line in child.stdout)


def test_a_follower_of_an_embedded_broker_sees_its_restart(embedded: None):
    with started([*MQTTKIT, "logs", "--follow"]) as child:
        assert child.stdout is not None
        assert "broker listening" in child.stdout.readline()
        run("restart")
        assert any("stopped" in line for line in child.stdout)
        assert any("broker listening" in line for line in child.stdout)


def test_up_shows_the_time_of_the_whole_start(monkeypatch: pytest.MonkeyPatch):
    """Also that of the choice of a backend, which takes half a second here."""
    need("mosquitto")

    def choose() -> list[str]:
        time.sleep(0.5)
        return ["process"]

    monkeypatch.setattr(lifecycle, "usable_backends", choose)
    try:
        shown = invoke("broker", "up", "--port", "0", "--json")
        assert json.loads(shown.stdout)["seconds"] >= 0.5
    finally:
        run("down", "--volumes", "--yes", code=None)


@pytest.mark.parametrize("command", [["down"], ["restart"], ["reload"], ["stats"], ["logs"]])
def test_a_broker_that_was_never_set_up_is_named(command: list[str]):
    error = run(*command, "--name", "absent", code=2).stderr
    assert "broker 'absent' does not exist" in error
    assert error.count("\n") == 1


def test_a_broken_name_is_refused():
    assert "a broker cannot have the name '../x'" in run("up", "--name", "../x", code=2).stderr
    assert not (Path(os.environ["XDG_STATE_HOME"]) / "mqttkit" / "x").exists()


def test_the_spec_is_written_without_a_secret(process: None):
    broker = existing_broker()
    assert isinstance(broker.spec, BrokerSpec)
    profile = load_profile()
    assert profile is not None and profile.password
    assert profile.password not in broker.paths.spec.read_text()


def test_stats_show_what_is_known_and_leave_out_what_is_not_yet(process: None):
    """The rates of packets need two updates."""
    shown = run("stats").stdout
    assert "None" not in shown
    assert "packets per second" not in shown
    rows = [re.split(r" {2,}", line.strip()) for line in shown.splitlines()]
    assert {"version", "retained", "received per second"} <= {row[0] for row in rows}
    assert {len(row) for row in rows} == {2}
