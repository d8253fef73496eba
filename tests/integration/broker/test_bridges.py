"""A bridge between two real brokers, as `mqttkit broker bridge` adds, tests, shows and removes it."""

from __future__ import annotations

import json
import os
import signal
import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from mqttkit.broker import (
    Broker,
    BrokerPaths,
    BrokerSpec,
    existing_broker,
    restart_broker,
    start_broker,
    stop_broker,
)
from mqttkit.broker.backends.docker.backend import DockerBroker
from mqttkit.broker.backup import create_backup, restore_backup
from mqttkit.broker.bridges import changes, trial
from mqttkit.broker.certificates.authority import Authority
from mqttkit.broker.live.accounts import change_accounts
from mqttkit.broker.mosquitto.bridge_connections import BridgeConnection, load_bridges
from mqttkit.errors import LifecycleError, UsageError
from tests.support.brokers import free_port, need, profile_of
from tests.support.clients import wait_until
from tests.support.commands import MQTTKIT, invoke, running
from tests.support.probe import Probe

PASSWORD = "a long pass phrase"
TOPICS = ("--topic", "site/# out 1", "--topic", "commands/# in 1")


@pytest.fixture
def cloud() -> Iterator[Broker]:
    """The other broker, with TLS and a user `site`."""
    need("mosquitto")
    broker, _ = start_broker(BrokerSpec(name="cloud", backend="process", port=0, tls_port=free_port()))
    try:
        change_accounts(broker, lambda files: files.add("site", PASSWORD))
        yield broker
    finally:
        stop_broker(broker, volumes=True)


@pytest.fixture
def broker() -> Iterator[Broker]:
    """The broker that gets the bridge."""
    need("mosquitto")
    broker, _ = start_broker(BrokerSpec(backend="process", port=0))
    yield broker
    stop_broker(broker, volumes=True)


@pytest.fixture
def place(cloud: Broker, tmp_path: Path) -> list[str]:
    """The options that name the other broker and its user."""
    (tmp_path / "secret").write_text(f"{PASSWORD}\n")
    url = f"mqtts://site@localhost:{cloud.spec.tls_port}"
    return ["--to", url, "--password-file", str(tmp_path / "secret"), "--cafile", str(cloud.paths.authority / "ca.crt")]


def grant(cloud: Broker, access: str, topic: str) -> None:
    assert invoke("broker", "acl", "grant", "site", access, topic, "--name", "cloud").returncode == 0


def bridge(*words: str, code: int = 0) -> str:
    """Run `mqttkit broker bridge …`, require its exit code, and return stdout and stderr."""
    done = invoke("broker", "bridge", *words)
    assert done.returncode == code, done.stdout + done.stderr
    return (done.stdout + done.stderr).decode()


def probe(broker: Broker) -> Probe:
    profile = profile_of(broker)
    return Probe(profile.port, profile.username, profile.password)


def status() -> list[dict[str, object]]:
    found: list[dict[str, object]] = json.loads(invoke("broker", "status", "--json").stdout)["bridges"]
    return found


def test_a_bridge_is_proven_in_each_direction_shown_and_removed(broker: Broker, cloud: Broker, place: list[str]):
    for topic in ("site/#", "commands/#"):
        grant(cloud, "readwrite", topic)
    said = bridge("add", "up", *place, *TOPICS)
    assert said.count("arrived after") == 2
    assert PASSWORD not in said
    assert [one["connected"] for one in status()] == [True]
    with probe(cloud) as reader, probe(broker) as writer:
        reader.subscribe("site/#")
        writer.publish("site/t", b"21")
        assert reader.wait_for_messages(1)[0].payload == b"21"
    assert PASSWORD not in bridge("list", "--json")
    assert bridge("test", "up").count("arrived after") == 2
    assert "already exists" in bridge("add", "up", *place, *TOPICS, code=2)
    bridge("remove", "up")
    assert status() == []
    assert broker.read_file("config/certs/bridge-up.crt") is None
    assert b"\nconnection " not in (broker.read_file("config/mosquitto.conf") or b"")
    assert "no bridge has the name" in bridge("remove", "up", code=2)


def test_messages_wait_while_the_other_broker_is_down(broker: Broker, cloud: Broker, place: list[str]):
    grant(cloud, "readwrite", "site/#")
    bridge("add", "up", *place, "--topic", "site/# out 1")
    stop_broker(cloud)
    wait_until(lambda: [one["connected"] for one in status()] == [False])
    with probe(broker) as writer:
        writer.publish("site/t", b"21", retain=True)
    start_broker(cloud.spec)
    with probe(cloud) as reader:
        reader.subscribe("site/#")
        reader.pump(lambda: bool(reader.messages), 120)
        assert reader.messages[0].payload == b"21"


def test_a_wrong_password_adds_no_bridge(broker: Broker, place: list[str], tmp_path: Path):
    (tmp_path / "secret").write_text("another pass phrase\n")
    assert "not authorised" in bridge("add", "up", *place, *TOPICS, code=1)
    assert load_bridges(broker.paths) == []
    assert broker.read_file("config/certs/bridge-up.crt") is None
    with probe(broker) as still:
        assert still.code == 0


def test_a_message_that_does_not_arrive_adds_no_bridge(
    broker: Broker, cloud: Broker, place: list[str], monkeypatch: pytest.MonkeyPatch
):
    """The other broker accepts the user and drops what it may not publish."""
    monkeypatch.setattr(trial, "ARRIVAL_SECONDS", 1.0)
    grant(cloud, "read", "site/#")
    assert "did not arrive" in bridge("add", "up", *place, "--topic", "site/# out 1", code=1)
    assert load_bridges(broker.paths) == []


def test_an_interrupted_test_adds_no_bridge(broker: Broker):
    """`add` waits for an address where nobody answers, and is ended by SIGTERM."""
    words = ("broker", "bridge", "add", "up", "--to", f"mqtt://127.0.0.1:{free_port()}", "--topic", "site/#")
    with running((*MQTTKIT, *words)) as adding:
        wait_until(lambda: [one["connected"] for one in status()] == [False])
        adding.terminate()
        assert adding.wait(60) == 130
    assert load_bridges(broker.paths) == []
    assert b"\nconnection " not in (broker.read_file("config/mosquitto.conf") or b"")
    with probe(broker) as still:
        assert still.code == 0


def test_an_addition_that_is_interrupted_while_it_stores_the_bridge_adds_none(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
):
    save = changes.save_bridges

    def save_and_stop(paths: BrokerPaths, bridges: list[BridgeConnection]) -> None:
        save(paths, bridges)
        if bridges:
            raise KeyboardInterrupt

    monkeypatch.setattr(changes, "save_bridges", save_and_stop)
    with pytest.raises(KeyboardInterrupt):
        changes.add_bridge(broker, BridgeConnection(name="up", host="h", port=1883, client_id="c", topics=()))
    assert load_bridges(broker.paths) == []


def test_a_bridge_stays_if_its_removal_fails(broker: Broker, monkeypatch: pytest.MonkeyPatch):
    bridge("add", "up", "--to", "mqtt://127.0.0.1", "--topic", "a", "--no-test")
    kept = load_bridges(broker.paths)

    def fail(_spec: BrokerSpec) -> None:
        raise LifecycleError("the disk is full")

    monkeypatch.setattr(changes, "restart_broker", fail)
    assert "the disk is full" in bridge("remove", "up", code=1)
    assert load_bridges(broker.paths) == kept


def test_a_failed_addition_keeps_a_bridge_that_another_command_added(broker: Broker, monkeypatch: pytest.MonkeyPatch):
    def fail(_broker: Broker, failing: BridgeConnection) -> None:
        assert "is added" in bridge("add", "other", "--to", "mqtt://h", "--topic", "a", "--no-test")
        raise LifecycleError(failing.name)

    monkeypatch.setattr(changes, "try_bridge", fail)
    bridge("add", "up", "--to", "mqtt://h", "--topic", "a", code=1)
    assert [one.name for one in load_bridges(broker.paths)] == ["other"]


def test_a_topic_of_prefixes_alone_is_forwarded(broker: Broker, cloud: Broker, place: list[str]):
    grant(cloud, "readwrite", "there")
    assert "out  : not sent" in bridge("add", "up", *place, "--topic", '"" out 1 here there')
    with probe(cloud) as reader, probe(broker) as writer:
        reader.subscribe("there")
        writer.publish("here", b"21")
        assert reader.wait_for_messages(1)[0].topic == "there"


def test_a_client_certificate_is_shown_to_the_other_broker(
    cloud: Broker, tmp_path: Path, broker: Broker, monkeypatch: pytest.MonkeyPatch
):
    """The other broker takes the user from the certificate. Only the owner can read the key."""
    restart_broker(replace(cloud.spec, client_certificates=True, certificate_users=True))
    grant(cloud, "readwrite", "site/#")
    authority = Authority.load(cloud.paths.authority)
    issued = authority.sign_client("site")
    (tmp_path / "site.crt").write_bytes(issued.certificate)
    (tmp_path / "site.key").write_bytes(issued.key)
    place = ["--to", f"mqtts://localhost:{cloud.spec.tls_port}", "--cafile", str(cloud.paths.authority / "ca.crt")]
    with monkeypatch.context() as impatient:
        impatient.setattr(trial, "CONNECT_SECONDS", 1.0)
        assert "does not connect" in bridge("add", "up", *place, "--topic", "site/# both", code=1)
    place += ["--cert", str(tmp_path / "site.crt"), "--key", str(tmp_path / "site.key")]
    assert bridge("add", "up", *place, "--topic", "site/# both").count("arrived after") == 2
    key = Path(broker.paths.root, "config/certs/bridge-up.client.key")
    assert key.read_bytes() == issued.key
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert "PRIVATE" not in bridge("list", "--json")
    bridge("remove", "up")
    assert [file.name for file in key.parent.glob("bridge-*")] == []


def test_an_ipv6_address_is_reached(broker: Broker):
    other, _ = start_broker(BrokerSpec(name="six", backend="process", port=0, listen="::1", anonymous=True))
    try:
        place = ["--to", f"mqtt://[::1]:{profile_of(other).port}"]
        assert bridge("add", "up", *place, "--topic", "site/# both").count("arrived after") == 2
        assert "mqtt://[::1]:" in bridge("list")
    finally:
        stop_broker(other, volumes=True)


@pytest.mark.parametrize("direction", ["out", "in"])
def test_another_broker_that_dies_during_the_canary_adds_no_bridge(
    broker: Broker, cloud: Broker, place: list[str], monkeypatch: pytest.MonkeyPatch, direction: str
):
    grant(cloud, "readwrite", "site/#")
    monkeypatch.setattr(trial, "CONNECT_SECONDS", 2.0)
    send = trial._send_canary

    def kill_first(*given: Any) -> trial.BridgeTrial:
        running = cloud.running()
        assert running is not None and running.pid is not None
        os.kill(running.pid, signal.SIGKILL)
        wait_until(lambda: [one["connected"] for one in status()] == [False])
        return send(*given)

    monkeypatch.setattr(trial, "_send_canary", kill_first)
    assert "does not connect" in bridge("add", "up", *place, "--topic", f"site/# {direction}", code=1)
    assert load_bridges(broker.paths) == []


def test_a_topic_without_a_wildcard_gets_no_canary(broker: Broker, cloud: Broker, place: list[str]):
    grant(cloud, "readwrite", "site/t")
    assert "a canary would disturb its readers" in bridge("add", "up", *place, "--topic", "site/t out 1")


@pytest.mark.parametrize(
    ("url", "reason"),
    [("mqtt://u:p@h", "visible to every user"), ("wss://h", "WebSockets"), ("mqtt://h", "need a URL with mqtts")],
)
def test_a_url_that_a_bridge_cannot_use_is_an_error(broker: Broker, tmp_path: Path, url: str, reason: str):
    (tmp_path / "ca").touch()
    assert reason in bridge("add", "up", "--to", url, "--topic", "a", "--cafile", str(tmp_path / "ca"), code=2)


@pytest.mark.parametrize(
    ("cert", "key", "reason"),
    [
        ("site.crt", "other.key", "cannot be used"),
        ("site.key", "site.key", "cannot be used"),
        ("site.crt", None, "cannot be used"),
        ("site.crt", "locked.key", "cannot be used"),
        (None, "site.key", "needs its certificate"),
        ("missing.crt", "site.key", "no file"),
    ],
)
def test_a_certificate_that_mosquitto_could_not_use_is_an_error(
    broker: Broker, tmp_path: Path, cert: str | None, key: str | None, reason: str
):
    authority = Authority.create("test")
    for name in ("site", "other"):
        issued = authority.sign_client(name)
        (tmp_path / f"{name}.crt").write_bytes(issued.certificate)
        (tmp_path / f"{name}.key").write_bytes(issued.key)
    secret = load_pem_private_key(issued.key, None)
    locked = secret.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x"))
    (tmp_path / "locked.key").write_bytes(locked)
    given = [
        word for option, file in (("--cert", cert), ("--key", key)) if file for word in (option, str(tmp_path / file))
    ]
    assert reason in bridge("add", "up", "--to", "mqtts://h", "--topic", "a", *given, code=2)
    assert load_bridges(broker.paths) == []


def test_a_bridge_is_in_a_backup_and_comes_back(broker: Broker, place: list[str], tmp_path: Path):
    bridge("add", "up", *place, *TOPICS, "--no-test")
    kept = load_bridges(broker.paths)
    create_backup(broker, tmp_path / "archive")
    bridge("remove", "up")
    stop_broker(broker)
    restore_backup(broker, tmp_path / "archive")
    start_broker(existing_broker().spec)
    assert load_bridges(broker.paths) == kept
    assert b"connection up\n" in (broker.read_file("config/mosquitto.conf") or b"")


def test_the_loopback_address_of_a_container_is_not_this_machine(tmp_path: Path):
    broker = DockerBroker(BrokerSpec(backend="docker"), BrokerPaths(tmp_path))
    bridge = BridgeConnection(name="up", host="localhost", port=1883, client_id="c", topics=())
    with pytest.raises(UsageError, match="is the container itself"):
        changes.add_bridge(broker, bridge)
