"""`mqttkit broker doctor`: each danger is made real on a running broker, and must be found."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from mqttkit.broker import Broker, BrokerPaths, BrokerSpec, Resources, existing_broker, start_broker
from mqttkit.broker.accounts.passwords import password_line
from mqttkit.broker.backup import create_backup
from mqttkit.broker.doctor import host
from mqttkit.broker.doctor.checklist import CHECKS, examine
from mqttkit.broker.doctor.examined_broker import ExaminedBroker
from mqttkit.broker.doctor.findings import Finding, Verdict, run_checks
from mqttkit.broker.probe import Login, publish
from mqttkit.broker.profile import read_profile, save_profile
from tests.support.brokers import free_port, need
from tests.support.clients import wait_until
from tests.support.docker import IMAGE
from tests.support.probe import Probe
from tests.support.tls import Authority

pytestmark = pytest.mark.system
MQTTKIT = (sys.executable, "-m", "mqttkit", "broker")
Make = Callable[..., Broker]


@pytest.fixture
def make() -> Iterator[Make]:
    """A function that starts brokers; all of them are removed at the end."""
    need("mosquitto")
    made: list[Broker] = []

    def new(**given: Any) -> Broker:
        values = {"backend": "process", "port": 0, **given}
        broker, _ = start_broker(BrokerSpec(**values))
        made.append(broker)
        return broker

    yield new
    for broker in made:
        broker.down(volumes=True)


def findings(broker: Broker, name: str) -> list[Finding]:
    """Run one check."""
    profile = read_profile(broker.paths)
    assert profile is not None
    examined = ExaminedBroker(broker, profile, broker.running())
    return list(run_checks([check for check in CHECKS if check.name == name], examined))


def verdicts(broker: Broker, name: str) -> set[Verdict]:
    return {one.verdict for one in findings(broker, name)}


def said(broker: Broker, name: str, verdict: Verdict = Verdict.FAILED) -> str:
    """Return what a check says with this verdict; each includes the command that fixes it."""
    found = [one for one in findings(broker, name) if one.verdict is verdict]
    assert found, findings(broker, name)
    assert verdict is Verdict.PASSED or all(one.fix for one in found)
    return "; ".join(one.detail for one in found)


def test_a_broker_as_up_makes_it_fails_no_check(make: Make):
    found = list(examine(make(websocket_port=free_port())))
    assert not [one for one in found if one.verdict is Verdict.FAILED]
    assert {one.check for one in found} == {check.name for check in CHECKS}
    seen = {one.check for one in found if one.verdict is Verdict.PASSED}
    assert seen >= {"answers", "anonymous", "strangers", "forbidden-topic", "wide-filters", "websocket", "passwords"}


def test_the_command_ends_with_1_on_a_failure_and_prints_json(make: Make):
    make(anonymous=True)
    done = subprocess.run([*MQTTKIT, "doctor", "--json"], capture_output=True, text=True, timeout=60)
    shown = json.loads(done.stdout)
    assert done.returncode == 1
    assert shown["summary"]["fail"] == sum(one["verdict"] == "fail" for one in shown["findings"]) > 0
    assert all(one["fix"] for one in shown["findings"] if one["verdict"] in ("fail", "warn"))


def test_an_embedded_broker_is_not_checked_where_it_has_nothing(make: Make):
    broker = make(backend="embedded")
    assert verdicts(broker, "acl") == {Verdict.NOT_CHECKED}
    assert verdicts(broker, "strangers") == {Verdict.PASSED}
    assert not [one for one in examine(broker) if one.verdict is Verdict.FAILED]


def test_anonymous_clients_are_found(make: Make):
    broker = make(anonymous=True, websocket_port=free_port())
    assert "MQTT on port" in said(broker, "anonymous")
    assert "WebSocket on port" in said(broker, "anonymous")
    assert verdicts(broker, "strangers") == {Verdict.PASSED}


def test_a_lost_password_file_that_opens_the_broker_is_found(make: Make):
    broker = make(anonymous=True)
    text = (broker.read_file("config/mosquitto.conf") or b"").replace(b"password_file config/passwd\n", b"")
    broker.write_file("config/mosquitto.conf", text)
    broker.signal("HUP")
    wait_until(lambda: Verdict.FAILED in verdicts(broker, "strangers"))
    assert "accepts random credentials" in said(broker, "strangers")
    assert "password_file is missing" in said(broker, "settings")


def test_a_broker_without_an_acl_after_a_broken_reload_is_found(make: Make):
    broker = make()
    broker.write_file("config/acl", b"topic raed x\n")
    broker.signal("HUP")
    wait_until(lambda: may_publish_anywhere(broker))
    assert "the broker delivers" in said(broker, "forbidden-topic")
    assert "$SYS/" in said(broker, "wide-filters")
    assert "config/acl:1" in said(broker, "acl")
    assert "after the last reload" in said(broker, "log")


def may_publish_anywhere(broker: Broker) -> bool:
    profile = read_profile(broker.paths)
    assert profile is not None
    login = Login(
        host=profile.host, port=profile.port, username=profile.probe_username, password=profile.probe_password
    )
    return publish(login, "mqttkit/forbidden/test") < 0x80


def test_users_who_may_read_everything_are_named(make: Make):
    broker = make()
    broker.write_file("config/passwd", (broker.read_file("config/passwd") or b"") + line("eve"))
    broker.write_file("config/acl", (broker.read_file("config/acl") or b"") + b"\nuser eve\ntopic read #\n")
    assert "user 'eve' may read all of #" in said(broker, "wide-filters", Verdict.WARNED)


def line(user: str, *, iterations: int = 1_000) -> bytes:
    return f"{password_line(user, 'correct horse battery', iterations=iterations)}\n".encode()


@pytest.mark.parametrize(
    ("extra", "verdict", "words"),
    [
        (b"eve:secret\n", Verdict.FAILED, "config/passwd:3"),
        (b"eve:$7$1000$AAAA$BBBB\n", Verdict.FAILED, "config/passwd:3"),
        (line("eve") * 2, Verdict.FAILED, "has two lines"),
        (line("eve", iterations=101), Verdict.WARNED, "101 iterations"),
        (line("eve", iterations=50_000), Verdict.WARNED, "block the broker at each login"),
        (b"eve:$6$" + b"A" * 16 + b"$" + b"A" * 86 + b"==\n", Verdict.WARNED, "only one round"),
    ],
    ids=["plain", "cut", "twice", "few iterations", "many iterations", "sha512"],  # hashes differ between workers
)
def test_password_lines_that_do_not_work_or_are_weak_are_found(make: Make, extra: bytes, verdict: Verdict, words: str):
    broker = make()
    broker.write_file("config/passwd", (broker.read_file("config/passwd") or b"") + extra)
    assert words in said(broker, "passwords", verdict)


def test_a_symbolic_link_in_place_of_a_secret_is_found(make: Make, tmp_path: Path):
    broker = make()
    passwd = broker.paths.root / "config/passwd"
    shutil.move(passwd, tmp_path / "elsewhere")
    passwd.symlink_to(tmp_path / "elsewhere")
    assert "config/passwd is a symbolic link" in said(broker, "files")


def test_a_secret_that_others_may_read_is_found(make: Make):
    broker = make()
    (broker.paths.root / "config/passwd").chmod(0o644)
    assert "config/passwd has mode 0644" in said(broker, "files")


def test_a_file_of_another_owner_is_found(make: Make):
    if os.geteuid() != 0:
        pytest.skip("needs root: its broker runs as another user")
    broker = make()
    os.chown(broker.paths.root / "config/acl", 0, 0)
    assert "config/acl belongs to uid 0" in said(broker, "files")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (b"max_queued_messages 100000", b"max_queued_messages 0", "drops every message"),
        (b"allow_anonymous false", b"allow_anonymous true", "manually"),
        (b"acl_file config/acl", b"", "acl_file is missing"),
    ],
)
def test_settings_that_bite_are_found(make: Make, old: bytes, new: bytes, words: str):
    broker = make()
    content = broker.read_file("config/mosquitto.conf") or b""
    assert old in content
    broker.write_file("config/mosquitto.conf", content.replace(old, new))
    assert words in said(broker, "settings")


def test_too_few_file_descriptors_are_found(make: Make):
    command = " ".join([*MQTTKIT, "up", "--backend", "process", "--port", str(free_port())])
    done = subprocess.run(["bash", "-c", f"ulimit -n 512 && {command}"], timeout=60, capture_output=True, text=True)
    assert "needs 10064 file descriptors and may have 512" in done.stderr
    broker = existing_broker()
    try:
        assert "it may open 512 files" in said(broker, "descriptors")
    finally:
        broker.down(volumes=True)


def test_a_port_taken_while_the_broker_was_down_names_its_holder(make: Make):
    broker = make()
    broker.down()
    with socket.create_server(("127.0.0.1", broker.spec.port)):
        assert f"(pid {os.getpid()})" in said(broker, "answers")


def test_a_websocket_port_without_a_websocket_listener_is_found(make: Make):
    broker = make()
    profile = read_profile(broker.paths)
    assert profile is not None
    save_profile(broker.paths, dataclasses.replace(profile, websocket_port=profile.port))
    assert "no WebSocket answers" in said(broker, "websocket")


def test_a_save_that_is_late_is_found(make: Make):
    broker = make()
    database = broker.paths.root / "data/mosquitto.db"
    os.utime(database, (time.time() - 3_600,) * 2)
    profile, running = read_profile(broker.paths), broker.running()
    assert profile is not None and running is not None
    for started, wanted in ((0.0, Verdict.FAILED), (time.time(), Verdict.PASSED)):
        examined = ExaminedBroker(broker, profile, dataclasses.replace(running, started=started))
        check = next(check for check in CHECKS if check.name == "last-save")
        assert {one.verdict for one in run_checks([check], examined)} == {wanted}


def test_more_absent_clients_than_the_memory_can_queue_for_are_found(make: Make):
    """max_queued_bytes is a limit for each client."""
    broker = make(overrides={"max_queued_bytes": 1 << 40})
    assert "0 clients are away" in said(broker, "queues", Verdict.PASSED)
    profile = read_profile(broker.paths)
    assert profile is not None
    properties = Properties(PacketTypes.CONNECT)
    properties.SessionExpiryInterval = 3_600
    login = (profile.port, profile.username, profile.password)
    with Probe(*login, client_id="absent", clean=False, properties=properties) as absent:
        absent.subscribe("a")
    wait_until(lambda: verdicts(broker, "queues") == {Verdict.WARNED})  # $SYS is updated every 2 s
    assert "1 clients are away" in said(broker, "queues", Verdict.WARNED)
    assert "--max-queued-bytes" in findings(broker, "queues")[0].fix


def test_sessions_that_never_end_are_found(make: Make):
    broker = make()
    assert "365d" in said(broker, "sessions", Verdict.PASSED)
    content = broker.read_file("config/mosquitto.conf") or b""
    broker.write_file("config/mosquitto.conf", content.replace(b"persistent_client_expiration 365d\n", b""))
    assert "forever" in said(broker, "sessions", Verdict.WARNED)


def test_a_backup_that_is_missing_old_or_gone_is_found(make: Make, tmp_path: Path):
    broker = make()
    assert "never backed up" in said(broker, "backup", Verdict.WARNED)
    create_backup(broker, tmp_path / "archive")
    assert "it was backed up 0 hours ago" in said(broker, "backup", Verdict.PASSED)
    record = json.loads(broker.paths.last_backup.read_bytes())
    broker.paths.last_backup.write_text(json.dumps({**record, "time": record["time"] - 9 * 86_400}))
    assert "9 days old" in said(broker, "backup", Verdict.WARNED)
    (tmp_path / "archive").unlink()
    assert "is gone" in said(broker, "backup", Verdict.WARNED)


@pytest.mark.parametrize(
    ("health", "verdict"), [("healthy", Verdict.PASSED), ("unhealthy", Verdict.FAILED), (None, Verdict.FAILED)]
)
def test_a_failed_health_check_is_found(make: Make, health: str | None, verdict: Verdict):
    broker = make()
    profile, running = read_profile(broker.paths), broker.running()
    assert profile is not None and running is not None
    broker.backend = "docker"
    examined = ExaminedBroker(broker, profile, dataclasses.replace(running, health=health))
    check = next(check for check in CHECKS if check.name == "health")
    assert {one.verdict for one in run_checks([check], examined)} == {verdict}


def test_data_in_memory_is_found():
    need("mosquitto")
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        broker, _ = start_broker(
            BrokerSpec(backend="process", port=0, temporary=True), BrokerPaths(Path(directory) / "broker")
        )
        try:
            assert "a reboot deletes it" in said(broker, "data", Verdict.WARNED)
        finally:
            broker.down(volumes=True)


def test_a_plain_listener_beyond_loopback_is_found(tmp_path: Path):
    """In a separate network namespace with a public address: nothing on this machine is exposed."""
    need("mosquitto")
    if os.geteuid() != 0:
        pytest.skip("needs root for a network namespace")
    command = " ".join([*MQTTKIT])
    script = (
        f"ip link set lo up && ip address add 9.9.9.9/32 dev lo && {command} up --backend process --listen 0.0.0.0 >&2 "
        f"&& {command} doctor --json; {command} down --volumes --yes >&2"
    )
    done = subprocess.run([need("unshare"), "--net", "sh", "-c", script], capture_output=True, text=True, timeout=90)
    found = {one["check"]: one for one in json.loads(done.stdout)["findings"]}
    assert found["plain-text"]["verdict"] == "fail", done.stderr
    assert "0.0.0.0" in found["plain-text"]["detail"]
    assert found["anonymous"]["verdict"] == "pass"


@pytest.fixture
def with_tls(make: Make, tmp_path: Path) -> Callable[..., Broker]:
    """A function that starts a broker with a TLS listener and a certificate of the test's authority."""

    def new(*, names: tuple[str, ...] = ("127.0.0.1",), hours: float = 24 * 90, **given: Any) -> Broker:
        broker = make()
        broker.down()
        authority = Authority(tmp_path)
        install(broker, authority, names=names, hours=hours)
        return make(port=broker.spec.port, tls_port=free_port(), **given)

    return new


def install(broker: Broker, authority: Authority, *, names: tuple[str, ...], hours: float) -> None:
    signed = authority.sign("broker", names=names, hours=hours)
    ca = Path(authority.file).read_bytes()
    broker.paths.authority.mkdir(exist_ok=True)
    (broker.paths.authority / "ca.crt").write_bytes(ca)
    broker.write_file("config/certs/ca.crt", ca)
    broker.write_file("config/certs/server.crt", Path(signed.cert).read_bytes())
    broker.write_file("config/certs/server.key", Path(signed.key).read_bytes())


def test_a_good_certificate_passes(with_tls: Callable[..., Broker]):
    broker = with_tls()
    for name in ("tls-chain", "tls-serial", "answers", "anonymous", "strangers"):
        assert verdicts(broker, name) == {Verdict.PASSED}, findings(broker, name)
    assert Verdict.FAILED not in verdicts(broker, "tls-versions")


def test_an_expired_certificate_is_found(with_tls: Callable[..., Broker]):
    broker = with_tls(hours=-1)
    assert "expired" in said(broker, "tls-expiry")
    assert "does not trust it" in said(broker, "tls-chain")


def test_a_certificate_that_expires_soon_is_warned_of(with_tls: Callable[..., Broker]):
    assert "in 9 days" in said(with_tls(hours=24 * 10), "tls-expiry", Verdict.WARNED)


def test_a_certificate_for_another_name_is_found(with_tls: Callable[..., Broker]):
    assert "does not trust it" in said(with_tls(names=("elsewhere.example",)), "tls-chain")


def test_a_renewed_certificate_that_is_not_served_yet_is_found(with_tls: Callable[..., Broker], tmp_path: Path):
    broker = with_tls()
    install(broker, Authority(tmp_path, "second"), names=("127.0.0.1",), hours=24)
    assert "is on disk" in said(broker, "tls-serial")


def test_a_client_certificate_is_demanded(with_tls: Callable[..., Broker]):
    broker = with_tls(client_certificates=True)
    assert verdicts(broker, "client-certificates") == {Verdict.PASSED}


def test_a_client_certificate_that_is_not_demanded_is_found(with_tls: Callable[..., Broker]):
    broker = with_tls()
    broker.spec = dataclasses.replace(broker.spec, client_certificates=True)
    assert "without a certificate" in said(broker, "client-certificates")


def test_old_tls_is_found(with_tls: Callable[..., Broker], tmp_path: Path):
    """A server that speaks TLS 1.1 replaces mosquitto, which speaks nothing older than 1.2 here."""
    openssl = need("openssl")
    broker = with_tls()
    profile = read_profile(broker.paths)
    assert profile is not None
    port = free_port()
    certificates = broker.paths.root / "config/certs"
    command = [openssl, "s_server", "-accept", f"127.0.0.1:{port}", "-tls1_1", "-cipher", "ALL:@SECLEVEL=0", "-quiet"]
    files = ["-cert", str(certificates / "server.crt"), "-key", str(certificates / "server.key")]
    with subprocess.Popen([*command, *files], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
        try:
            wait_until(lambda: connects(port))
            save_profile(broker.paths, dataclasses.replace(profile, tls_port=port))
            assert "the broker speaks TLS 1.1" in said(broker, "tls-versions")
        finally:
            server.kill()


def connects(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def test_a_container_is_checked_as_a_process_is(docker_host: str):
    """The engine restarts it, its data is on a volume, its files are its own; the tag of the image moves."""
    name = f"t{uuid.uuid4().hex[:8]}"
    broker, _ = start_broker(BrokerSpec(backend="docker", name=name, port=0, image=IMAGE))
    try:
        found = list(examine(broker))
        assert not [one for one in found if one.verdict is Verdict.FAILED]
        passed = {one.check for one in found if one.verdict is Verdict.PASSED}
        assert passed >= {
            "restart-policy",
            "data",
            "files",
            "last-save",
            "user",
            "descriptors",
            "websocket",
            "memory",
            "health",
        }
        assert "may move" in said(broker, "image", Verdict.WARNED)
    finally:
        broker.down(volumes=True)


def test_an_operator_who_is_no_longer_let_in_is_found(make: Make):
    broker = make()
    broker.write_file("config/passwd", line("eve"))
    broker.signal("HUP")
    wait_until(lambda: Verdict.FAILED in verdicts(broker, "answers"))
    assert "refuses the operator" in said(broker, "answers")


def test_a_listener_that_is_gone_is_found(make: Make):
    broker = make()
    profile = read_profile(broker.paths)
    assert profile is not None
    save_profile(broker.paths, dataclasses.replace(profile, websocket_port=free_port()))
    assert "nothing listens" in said(broker, "addresses")
    assert "connection refused" in said(broker, "answers")
    assert Verdict.NOT_CHECKED in verdicts(broker, "anonymous")


def test_a_port_that_another_process_holds_is_found(make: Make):
    broker = make()
    profile = read_profile(broker.paths)
    assert profile is not None
    with socket.create_server(("127.0.0.1", 0)) as server:
        save_profile(broker.paths, dataclasses.replace(profile, websocket_port=server.getsockname()[1]))
        assert f"held by {Path('/proc/self/comm').read_text().strip()}" in said(broker, "addresses")


def test_a_broker_that_runs_as_root_is_found(make: Make):
    """The process of this test, run by root, plays the broker."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    broker = make()
    profile, running = read_profile(broker.paths), broker.running()
    assert profile is not None and running is not None
    examined = ExaminedBroker(broker, profile, dataclasses.replace(running, pid=os.getpid()))
    assert [one.detail for one in run_checks([one for one in CHECKS if one.name == "user"], examined)] == [
        "it runs as root"
    ]


@pytest.mark.parametrize(
    ("resources", "verdict"),
    [
        (Resources(memory_bytes=99 << 20, cpu_seconds=0, limit_bytes=100 << 20), Verdict.FAILED),
        (Resources(memory_bytes=50 << 20, cpu_seconds=0, limit_bytes=100 << 20), Verdict.WARNED),
        (Resources(memory_bytes=5 << 20, cpu_seconds=0, limit_bytes=100 << 20), Verdict.PASSED),
    ],
)
def test_memory_near_its_limit_is_found(
    make: Make, monkeypatch: pytest.MonkeyPatch, resources: Resources, verdict: Verdict
):
    broker = make()
    monkeypatch.setattr(broker, "resources", lambda: resources)
    assert verdicts(broker, "memory") == {verdict}


def test_a_full_disk_is_found(make: Make, monkeypatch: pytest.MonkeyPatch):
    broker = make()
    assert verdicts(broker, "disk") <= {Verdict.PASSED, Verdict.WARNED}
    monkeypatch.setattr(host, "LOW_FREE", 1.1)
    assert "free" in said(broker, "disk", Verdict.WARNED)
    monkeypatch.setattr(host, "LEAST_FREE", 1 << 60)
    assert "free" in said(broker, "disk")


def test_a_database_that_was_never_saved_is_found(make: Make):
    broker = make()
    (broker.paths.root / "data/mosquitto.db").unlink()
    assert "never saved" in said(broker, "last-save")


def test_persistence_switched_off_is_warned_of(make: Make):
    broker = make(overrides={"persistence": False})
    assert "persistence is off" in said(broker, "data", Verdict.WARNED)
    assert verdicts(broker, "last-save") == {Verdict.NOT_CHECKED}


@pytest.mark.parametrize(
    ("image", "verdict"),
    [
        ("eclipse-mosquitto:2.0.22", Verdict.PASSED),
        (f"eclipse-mosquitto@sha256:{'0' * 64}", Verdict.PASSED),
        ("eclipse-mosquitto:2", Verdict.WARNED),
        ("eclipse-mosquitto", Verdict.WARNED),
    ],
)
def test_a_tag_that_moves_is_warned_of(make: Make, image: str, verdict: Verdict):
    broker = make()
    profile = read_profile(broker.paths)
    assert profile is not None
    save_profile(broker.paths, dataclasses.replace(profile, image=f"{image.partition('@')[0]}@sha256:{'1' * 64}"))
    broker.spec = dataclasses.replace(broker.spec, image=image)
    assert verdicts(broker, "image") == {verdict}
