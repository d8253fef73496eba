"""`mqttkit doctor`: each fault is set up on a real broker, and the first step that fails must name it."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from mqttkit.broker.accounts.passwords import password_line
from mqttkit.broker.doctor.findings import Finding, Verdict
from mqttkit.broker.probe import number_properties
from mqttkit.broker.profile import BrokerPaths, Profile, locked, save_profile
from mqttkit.doctor import traffic
from mqttkit.doctor.examination import STEPS, examine
from mqttkit.doctor.visit import Visit
from mqttkit.messages import Subscription
from mqttkit.settings import TlsSettings
from mqttkit.testing.broker import TestBroker
from tests.support.brokers import Mosquitto, free_port, mosquitto, wait_for_port
from tests.support.clients import settings_for
from tests.support.tls import Authority

PASSWORD = "correct horse battery"
USER = {"username": "u", "password": PASSWORD}


def visit(port: int, **fields: object) -> dict[str, Finding]:
    """Return the gravest finding of each step."""
    gravest = [Verdict.PASSED, Verdict.NOT_CHECKED, Verdict.WARNED, Verdict.FAILED]
    found: dict[str, Finding] = {}
    for one in examine(settings_for(port, **fields)):
        known = found.get(one.check)
        if known is None or gravest.index(one.verdict) > gravest.index(known.verdict):
            found[one.check] = one
    assert list(found) == [step.name for step in STEPS]
    return found


def assert_first_failure(found: dict[str, Finding], name: str) -> Finding:
    """Demand that this step failed, that all before it did not, and that no later one passed."""
    names = list(found)
    assert [one for one in names if found[one].verdict is Verdict.FAILED] == [name], found
    assert {found[one].verdict for one in names[names.index(name) + 1 :]} <= {Verdict.NOT_CHECKED}
    assert found[name].fix
    return found[name]


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Mosquitto]:
    """A broker with the user `u`, who may use `own/#`."""
    with with_users(tmp_path) as broker:
        yield broker


def with_users(directory: Path, *lines: str):  # type: ignore[no-untyped-def]
    directory.mkdir(exist_ok=True)
    (directory / "passwd").write_text(password_line("u", PASSWORD) + "\n")
    (directory / "acl").write_text("user u\ntopic readwrite own/#\n")
    files = (f"password_file {directory}/passwd", f"acl_file {directory}/acl")
    return mosquitto(directory / "broker", *files, *lines, anonymous=False)


def test_a_broker_in_order_fails_no_step(guarded: Mosquitto):
    found = {one.check: one for one in examine(settings_for(guarded.port, **USER), topic="own/doctor")}
    passed = {name for name, one in found.items() if one.verdict is Verdict.PASSED}
    skipped = {"tls", "websocket"}
    assert passed == {step.name for step in STEPS} - skipped
    assert "20 of 20" in found["round-trip"].detail
    assert "receive maximum" in found["capabilities"].detail


def test_nothing_of_the_visit_stays_on_the_broker(guarded: Mosquitto):
    list(examine(settings_for(guarded.port, **USER), topic="own/doctor"))
    command = ["mosquitto_sub", "-p", str(guarded.port), "-u", "u", "-P", PASSWORD, "-t", "own/#", "-W", "1"]
    done = subprocess.run([*command, "--retained-only"], capture_output=True, timeout=60)
    assert done.stdout == b""


def test_a_name_without_an_address():
    assert_first_failure(visit(1883, host="no.such.host.invalid"), "dns")


def test_a_port_where_nothing_listens():
    finding = assert_first_failure(visit(free_port()), "tcp")
    assert "connection refused" in finding.detail


def test_wrong_credentials(guarded: Mosquitto):
    assert "not authorized" in assert_first_failure(visit(guarded.port, username="u", password="no"), "connack").detail


def test_a_publish_that_the_acl_denies(guarded: Mosquitto):
    """MQTT 5 tells."""
    assert "is denied" in assert_first_failure(visit(guarded.port, **USER), "publish").detail


def test_a_publish_that_the_acl_denies_in_silence(guarded: Mosquitto):
    """MQTT 3.1.1 grants and acknowledges: only the round trip shows it."""
    found = visit(guarded.port, **USER, version="311")
    assert found["publish"].verdict is Verdict.NOT_CHECKED
    assert found["round-trip"].verdict is Verdict.FAILED
    assert "its ACL may deny" in found["round-trip"].detail


def test_a_broker_that_lets_anyone_in_is_warned_of(shared_broker: TestBroker):
    found = visit(shared_broker.port)
    assert found["strangers"].verdict is Verdict.WARNED
    assert found["acl"].verdict is Verdict.WARNED
    assert found["round-trip"].verdict is Verdict.PASSED


def test_what_the_broker_cannot_do_is_warned_of(tmp_path: Path):
    with mosquitto(tmp_path / "broker", "retain_available false", "max_qos 1") as broker:
        found = list(examine(settings_for(broker.port)))
    warned = " ".join(one.detail for one in found if one.verdict is Verdict.WARNED)
    assert [one.verdict for one in found if one.check == "retained"] == [Verdict.NOT_CHECKED]
    assert [one.verdict for one in found if one.check == "shared"] == [Verdict.PASSED]
    assert "maximum QoS: 1" in warned
    assert "retained messages: 0" in warned


@pytest.fixture
def tls(tmp_path: Path) -> Iterator[tuple[int, str]]:
    """The TLS port of a broker, and the file of its authority."""
    authority = Authority(tmp_path)
    signed = authority.sign("broker", names=("127.0.0.1",))
    port = free_port()
    lines = (f"listener {port} 127.0.0.1", f"certfile {signed.cert}", f"keyfile {signed.key}")
    with mosquitto(tmp_path / "broker", *lines):
        wait_for_port(port)
        yield port, authority.file


def test_tls_in_order(tls: tuple[int, str]):
    found = visit(tls[0], tls=TlsSettings(ca_file=tls[1]))
    assert "TLSv1" in found["tls"].detail
    assert found["round-trip"].verdict is Verdict.PASSED


def test_a_certificate_of_an_unknown_authority(tls: tuple[int, str]):
    assert "not trusted" in assert_first_failure(visit(tls[0], tls=TlsSettings()), "tls").detail


def test_a_certificate_for_another_name(tls: tuple[int, str]):
    assert_first_failure(visit(tls[0], host="localhost", tls=TlsSettings(ca_file=tls[1])), "tls")


def test_plain_mqtt_to_a_tls_port(tls: tuple[int, str]):
    assert "the port speaks TLS" in assert_first_failure(visit(tls[0]), "connack").fix


def test_tls_to_a_plain_port(shared_broker: TestBroker):
    assert_first_failure(visit(shared_broker.port, tls=TlsSettings()), "tls")


def test_websockets_to_a_plain_port(shared_broker: TestBroker):
    assert_first_failure(visit(shared_broker.port, transport="websockets"), "websocket")


def test_websockets_in_order(tmp_path: Path):
    port = free_port()
    with mosquitto(tmp_path / "broker", f"listener {port} 127.0.0.1", "protocol websockets", "socket_domain ipv4"):
        wait_for_port(port)
        found = visit(port, transport="websockets")
    assert found["websocket"].verdict is Verdict.PASSED
    assert found["round-trip"].verdict is Verdict.PASSED


def test_a_port_that_speaks_something_else():
    """A server that answers CONNECT with something else is not a broker."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        answering = threading.Event()

        def answer() -> None:
            server.settimeout(120)
            while not answering.is_set():
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        try:
            assert_first_failure(visit(server.getsockname()[1], connect_timeout=2.0), "connack")
        finally:
            answering.set()
            socket.create_connection(server.getsockname(), timeout=60).close()
            thread.join(60)


def test_the_command_takes_a_url_and_ends_with_1_on_a_failure(guarded: Mosquitto):
    url = f"mqtt://u:wrong@127.0.0.1:{guarded.port}"
    done = subprocess.run(
        [sys.executable, "-m", "mqttkit", "doctor", url, "--json"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    shown = json.loads(done.stdout)
    assert [one["check"] for one in shown["findings"] if one["verdict"] == "fail"] == ["connack"]
    assert "wrong" not in done.stderr
    good = subprocess.run(
        [sys.executable, "-m", "mqttkit", "doctor", url.replace("wrong", PASSWORD), "--topic", "own/x"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert good.returncode == 0, good.stdout
    assert "round-trip" in good.stdout


def test_without_a_url_it_visits_the_broker_of_the_profile(guarded: Mosquitto):
    from mqttkit.cli import cli

    paths = BrokerPaths.of("default")
    with locked(paths):
        save_profile(paths, Profile(name="default", backend="process", host="127.0.0.1", port=guarded.port, **USER))
    done = CliRunner().invoke(cli, ["doctor", "--topic", "own/x"], standalone_mode=False)
    assert "logged in as user 'u'" in done.output


def test_the_number_properties_of_a_connack_are_read():
    """Receive maximum 20, a reason string, a user property, retain available 0."""
    properties = b"\x21\x00\x14" + b"\x1f\x00\x02no" + b"\x26\x00\x01a\x00\x01b" + b"\x25\x00"
    assert number_properties(bytes([len(properties)]) + properties) == {0x21: 20, 0x25: 0}


@pytest.mark.parametrize(
    "data", [b"", b"\x00", b"\x05\x21", b"\xff\xff\xff\xff\xff", b"\x03\x1f\xff\xff", b"\x06\x25\x00\x1f\xff\xff"]
)
def test_broken_properties_are_left_out(data: bytes):
    """What stands before them is read."""
    assert number_properties(data) == ({0x25: 0} if b"\x25" in data else {})


def test_a_small_packet_limit_is_no_fault_of_the_acl(tmp_path: Path) -> None:
    """The round trip uses a payload that the broker takes."""
    with mosquitto(tmp_path / "small", "max_packet_size 200") as broker:
        found = visit(broker.port, version="5")
    assert found["round-trip"].verdict is Verdict.PASSED, found["round-trip"]


def test_retained_messages_that_wildcards_do_not_get_are_named(
    shared_broker: TestBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RabbitMQ delivers them only to subscriptions to the exact topic."""

    class LikeRabbit(traffic.MessageCollector):
        def __init__(self, visit: Visit) -> None:
            super().__init__(visit)
            subscribe = self.client.subscribe

            def exact(*filters: Subscription, **options: float) -> list[int]:
                wanted = [replace(each, retain_handling=2 if "#" in each.topic_filter else 0) for each in filters]
                return subscribe(*wanted, **options)

            monkeypatch.setattr(self.client, "subscribe", exact)

    monkeypatch.setattr(traffic, "MessageCollector", LikeRabbit)
    found = visit(shared_broker.port, version="5")
    assert found["retained"].verdict is Verdict.WARNED
    assert "wildcards" in found["retained"].detail
