"""`broker user` and `broker acl` against a running broker, as scripts type them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from argon2 import PasswordHasher
from click.testing import CliRunner, Result

from mqttkit.broker import Broker, BrokerSpec, start_broker
from mqttkit.broker.profile import locked, read_profile
from mqttkit.cli import cli
from tests.support.brokers import need
from tests.support.probe import Probe, login

DENIED = 135
PASSWORD = "correct horse battery"


@pytest.fixture
def broker() -> Iterator[Broker]:
    """The default broker, on the process backend."""
    need("mosquitto")
    broker, _ = start_broker(BrokerSpec(backend="process", port=0))
    yield broker
    with locked(broker.paths):
        broker.down(volumes=True)


def run(*words: str, code: int = 0, text: str | None = None) -> Result:
    """Run `mqttkit broker …` and demand its exit code."""
    result = CliRunner().invoke(cli, ["broker", *words], input=text)
    assert result.exit_code == code, result.output
    return result


def port_of(broker: Broker) -> int:
    profile = read_profile(broker.paths)
    assert profile is not None
    return profile.port


def test_a_device_works_as_soon_as_the_command_returns(broker: Broker) -> None:
    """The generated password stands alone on stdout; the device may do what its role says and no more."""
    result = run("user", "add", "lamp", "--role", "device", "--generate")
    password = result.stdout.removesuffix("\n")
    assert len(password) == 24
    assert password.isalnum()
    with Probe(port_of(broker), "lamp", password) as lamp:
        assert lamp.code == 0
        assert lamp.publish("sensors/lamp/temperature") != DENIED
        assert lamp.publish("sensors/other/temperature") == DENIED
    run("acl", "check", "lamp", "write", "sensors/lamp/temperature")
    run("acl", "check", "lamp", "write", "sensors/other/temperature", code=1)
    run("acl", "check", "lamp", "read", "commands/lamp/on")
    run("acl", "check", "lamp", "subscribe", "$SYS/#", code=1)


def test_a_removed_user_is_thrown_out(broker: Broker, tmp_path: Path) -> None:
    """Its live connection ends, and it cannot come back."""
    (tmp_path / "password").write_text(PASSWORD + "\n")
    run("user", "add", "lamp", "--password-file", str(tmp_path / "password"))
    with Probe(port_of(broker), "lamp", PASSWORD) as lamp:
        run("user", "remove", "lamp")
        lamp.wait_closed()
    assert login(port_of(broker), "lamp", PASSWORD) == DENIED


def test_a_new_password_throws_out_the_old(broker: Broker) -> None:
    """passwd takes the password from stdin as well."""
    run("user", "add", "lamp", "--password-file", "-", text=PASSWORD + "\n")
    run("user", "passwd", "lamp", "--password-file", "-", text=PASSWORD + "2\n")
    assert login(port_of(broker), "lamp", PASSWORD) == DENIED
    assert login(port_of(broker), "lamp", PASSWORD + "2") == 0


def test_the_prompt_asks_twice_and_echoes_nothing(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mistyped confirmation is asked again; the password is printed nowhere."""
    monkeypatch.setattr("mqttkit.cli.broker.accounts.has_terminal", lambda: True)
    result = run("user", "add", "lamp", text=f"{PASSWORD}\nother\n{PASSWORD}\n{PASSWORD}\n")
    assert PASSWORD not in result.output
    assert login(port_of(broker), "lamp", PASSWORD) == 0


def test_without_a_terminal_a_password_comes_from_a_file_or_a_process_substitution(broker: Broker) -> None:
    """The error is one line that names --password-file; the pipe of `<(…)` works."""
    words = "-m mqttkit broker user add lamp"
    alone = subprocess.run(
        [sys.executable, *words.split()],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        start_new_session=True,
    )
    assert alone.returncode == 2
    assert alone.stderr.count("\n") == 1
    assert "--password-file" in alone.stderr
    script = f"{sys.executable} {words} --password-file <(printf '%s\\n' '{PASSWORD}')"
    subprocess.run(["bash", "-c", script], check=True, capture_output=True)
    assert login(port_of(broker), "lamp", PASSWORD) == 0


def test_the_operator_gets_a_new_password_that_every_command_finds(broker: Broker) -> None:
    """Broker and profile change together; the old password is refused."""
    before = read_profile(broker.paths)
    assert before is not None
    assert run("user", "passwd", "mqttkit", "--generate").stdout == "", "it is in the profile only"
    after = read_profile(broker.paths)
    assert after is not None
    assert after.password
    assert after.password != before.password
    assert login(after.port, "mqttkit", after.password) == 0
    assert login(after.port, "mqttkit", before.password) == DENIED
    run("user", "add", "lamp", "--generate")


def test_grants_and_revocations_act_on_connected_clients(broker: Broker) -> None:
    """No reconnect needed; list shows what there is."""
    run("user", "add", "svc", "--password-file", "-", text=PASSWORD)
    with Probe(port_of(broker), "svc", PASSWORD) as service:
        assert service.publish("a/b") == DENIED
        run("acl", "grant", "svc", "readwrite", "a/#")
        assert service.publish("a/b") != DENIED
        run("acl", "revoke", "svc", "write", "a/#")
        assert service.publish("a/b") == DENIED
        assert not service.closed
    rows = json.loads(run("acl", "list", "svc", "--json").stdout)
    assert rows == [{"user": "svc", "access": "read", "topic": "a/#"}]
    assert "read      a/#" in run("acl", "list").stdout
    run("acl", "revoke", "svc", "a/#")
    run("acl", "revoke", "svc", "a/#", code=2)


def test_live_check_proves_it_against_the_broker(broker: Broker, tmp_path: Path) -> None:
    """Allowed and denied, for each action; a broker that does otherwise than its file is an error."""
    (tmp_path / "password").write_text(PASSWORD)
    run("user", "add", "svc", "--password-file", str(tmp_path / "password"))
    run("acl", "grant", "svc", "read", "a/+/c")
    run("acl", "grant", "svc", "write", "b")
    live = ("--live", "--password-file", str(tmp_path / "password"))
    for action, topic, code in (
        ("read", "a/b/c", 0),
        ("read", "b", 1),
        ("subscribe", "a/#", 0),
        ("subscribe", "b/#", 1),
        ("write", "b", 0),
        ("write", "a/b/c", 1),
    ):
        assert "the running broker agrees" in run("acl", "check", "svc", action, topic, *live, code=code).stdout
    acl = broker.read_file("config/acl") or b""
    broker.write_file("config/acl", acl.replace(b"write b", b"write c"))
    result = run("acl", "check", "svc", "write", "b", *live, code=1)
    assert "allows what its ACL file denies" in result.stderr
    (tmp_path / "password").write_text("wrong password")
    run("acl", "check", "svc", "write", "c", *live, code=4)


def test_patterns_by_client_identifier_need_one(broker: Broker) -> None:
    """Without --client-id a pattern with %c cannot be judged, and that is said."""
    run("user", "add", "svc", "--generate")
    acl = broker.read_file("config/acl") or b""
    broker.write_file("config/acl", acl + b"\npattern write homes/%c/#\n")
    assert "--client-id" in run("acl", "check", "svc", "write", "homes/x/a", code=1).stderr
    run("acl", "check", "svc", "write", "homes/x/a", "--client-id", "x")


def test_lint_finds_nothing_on_a_new_broker_and_ends_with_1_otherwise(broker: Broker, tmp_path: Path) -> None:
    """Our own users are meant to be as they are."""
    clean = run("acl", "lint")
    assert (clean.stdout, clean.stderr) == ("", "no problems found\n")
    run("user", "add", "idle", "--generate")
    assert "user 'idle' has no rule" in run("acl", "lint", code=1).stdout
    (tmp_path / "acl").write_text("topic read a\n")
    rows = json.loads(run("acl", "lint", "--file", str(tmp_path / "acl"), "--json", code=1).stdout)
    assert rows[0]["serious"]


def test_users_are_listed_without_their_hashes(broker: Broker) -> None:
    """Scheme, rounds and number of rules; never salt or hash."""
    run("user", "add", "lamp", "--generate", "--role", "device", "--iterations", "77")
    rows = {row["user"]: row for row in json.loads(run("user", "list", "--json").stdout)}
    assert rows["lamp"] == {"user": "lamp", "scheme": "$7$", "iterations": 77, "rules": 6, "own": False}
    assert rows["mqttkit"]["own"]
    listed = run("user", "list").stdout
    assert "lamp" in listed
    assert "==" not in listed


@pytest.mark.parametrize(
    ("words", "text", "reason"),
    [
        (("user", "add", "lamp", "--password-file", "-"), "short", "5 characters"),
        (
            ("user", "add", "lamp", "--generate", "--password-file", "-"),
            PASSWORD,
            "use either --generate or --password-file",
        ),
        (("user", "add", "a:b", "--generate"), None, "':'"),
        (("user", "add", "a/b", "--generate"), None, "'/'"),
        (("user", "add", "lamp", "--password-file", "/no/such/file"), None, "does not exist"),
        (("user", "add", "lamp", "--password-file", "-"), "\n", "stdin is empty"),
        (("user", "add", "mqttkit", "--generate"), None, "belongs to mqttkit"),
        (("user", "add", "lamp", "--role", "king", "--generate"), None, "king"),
        (("user", "passwd", "absent", "--generate"), None, "user 'absent' does not exist"),
        (("user", "remove", "absent"), None, "user 'absent' does not exist"),
        (("user", "remove", "mqttkit-probe"), None, "belongs to mqttkit"),
        (("acl", "grant", "absent", "read", "a"), None, "user 'absent' does not exist"),
        (("acl", "grant", "mqttkit", "read", "a"), None, "belongs to mqttkit"),
        (("acl", "check", "absent", "read", "a"), None, "user 'absent' does not exist"),
        (("acl", "check", "mqttkit", "read", "a/#"), None, "wildcard"),
        (("acl", "revoke", "mqttkit", "reed", "a"), None, "revoke wants"),
    ],
)
def test_bad_input_ends_with_2_and_changes_nothing(
    broker: Broker, words: tuple[str, ...], text: str | None, reason: str
) -> None:
    """One line that names the cause; both files stay as they were."""
    before = (broker.read_file("config/passwd"), broker.read_file("config/acl"))
    result = run(*words, code=2, text=text)
    assert reason in result.stderr
    assert (broker.read_file("config/passwd"), broker.read_file("config/acl")) == before


def test_a_weak_password_is_taken_where_it_is_insisted_on(broker: Broker) -> None:
    """--weak is the way."""
    run("user", "add", "lamp", "--weak", "--password-file", "-", text="short")
    assert login(port_of(broker), "lamp", "short") == 0


def test_a_broken_file_stops_every_change(broker: Broker) -> None:
    """A broken ACL, a missing password file or a link is named; mqttkit neither repairs nor follows it."""
    acl = broker.read_file("config/acl") or b""
    broker.write_file("config/acl", b"topic reed a\n")
    assert "config/acl:1: access 'reed'" in run("user", "add", "lamp", "--generate", code=2).stderr
    broker.write_file("config/acl", acl)
    passwd = broker.paths.root / "config" / "passwd"
    moved = passwd.with_name("elsewhere")
    passwd.rename(moved)
    assert "config/passwd is missing" in run("user", "add", "lamp", "--generate", code=2).stderr
    passwd.symlink_to(moved)
    run("user", "add", "lamp", "--generate", code=2)
    assert b"lamp" not in moved.read_bytes()
    passwd.unlink()
    moved.rename(passwd)


def test_users_are_added_while_the_broker_is_down(broker: Broker) -> None:
    """They are there when it comes up."""
    with locked(broker.paths):
        broker.down()
    result = run("user", "add", "lamp", "--password-file", "-", text=PASSWORD)
    assert "is not running" in result.stderr
    with locked(broker.paths):
        broker.up()
    assert login(port_of(broker), "lamp", PASSWORD) == 0


def test_a_backend_without_users_refuses_by_name() -> None:
    """embedded has one user and no files: refused, not ignored."""
    pytest.importorskip("iotcore")
    broker, _ = start_broker(BrokerSpec(backend="embedded", port=0))
    try:
        assert "not possible with the embedded backend" in run("user", "add", "lamp", "--generate", code=2).stderr
        run("acl", "list", code=2)
    finally:
        with locked(broker.paths):
            broker.down(volumes=True)


def test_without_a_broker_it_says_how_to_start_one() -> None:
    """No broker was set up."""
    assert "mqttkit broker up" in run("user", "list", code=2).stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root changes owners")
@pytest.mark.parametrize("file", ["config/passwd", "config/acl"])
@pytest.mark.parametrize("words", [("user", "add", "lamp", "--generate"), ("acl", "grant", "svc", "read", "a")])
def test_a_file_that_the_broker_could_not_read_gets_its_owner_back(
    broker: Broker, file: str, words: tuple[str, ...]
) -> None:
    """Root's hand-made copy would take every right check away at the reload: mqttkit writes it again first."""
    run("user", "add", "svc", "--password-file", "-", text=PASSWORD)
    owner = (broker.paths.root / "config").stat().st_uid
    os.chown(broker.paths.root / file, 0, 0)
    run(*words)
    assert (broker.paths.root / file).stat().st_uid == owner
    port = port_of(broker)
    assert login(port, "stranger", "stranger") == DENIED
    with Probe(port, "svc", PASSWORD) as service:
        assert service.code == 0
        assert service.publish("anything") == DENIED


def test_an_argon2id_hash_is_rejected_before_a_reload_by_a_mosquitto_that_would_drop_the_user(broker: Broker) -> None:
    """mosquitto 2.1 writes such lines; 2.0 ignores them silently."""
    if broker.version() >= (2, 1):
        pytest.skip("this mosquitto reads Argon2id")
    text = PasswordHasher(time_cost=1, memory_cost=1024, parallelism=1).hash("secret")
    content = broker.read_file("config/passwd") or b""
    broker.write_file("config/passwd", content + f"anna:{text}\n".encode())
    assert "'anna' has a hash of mosquitto 2.1" in run("reload", code=2).stderr
    run("user", "list")
    broker.write_file("config/passwd", content)
