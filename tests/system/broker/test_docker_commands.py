"""The operator's day on Docker: up, users, ACL, TLS, reload, backup, restore, down, as typed."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from mqttkit.broker import Broker, existing_broker
from mqttkit.broker.backends.docker.engine import connect_engine, run_in
from mqttkit.broker.live.reload import BrokerOpened, apply_changes
from mqttkit.broker.profile import Profile, load_profile, locked
from tests.support.brokers import free_port
from tests.support.docker import IMAGE
from tests.support.probe import Probe, login

pytestmark = pytest.mark.system
DENIED = 135
PASSWORD = "correct horse battery"


@pytest.fixture
def name(client: Any) -> Iterator[str]:
    """A broker that runs in a container."""
    name = f"c{uuid.uuid4().hex[:8]}"
    run("up", "--backend", "docker", "--image", IMAGE, "--port", "0", name=name)
    yield name
    run("down", "--volumes", "--yes", name=name)


def run(*words: str, name: str, code: int | None = 0, text: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run `mqttkit broker … --name NAME` and demand its exit code."""
    command = [sys.executable, "-m", "mqttkit", "broker", *words, "--name", name]
    done = subprocess.run(command, capture_output=True, text=True, input=text, timeout=120, check=False)
    assert code in (None, done.returncode), done.stdout + done.stderr
    return done


def profile_of(name: str) -> Profile:
    profile = load_profile(name)
    assert profile is not None
    return profile


def test_users_and_rights_act_live_in_the_container(name: str) -> None:
    """A device logs in as soon as it is added and is disconnected when it is removed; grants apply immediately."""
    password = run("user", "add", "lamp", "--role", "device", "--generate", name=name).stdout.strip()
    with Probe(profile_of(name).port, "lamp", password) as lamp:
        assert lamp.publish("sensors/lamp/t") != DENIED
        assert lamp.publish("a/b") == DENIED
        run("acl", "grant", "lamp", "write", "a/#", name=name)
        assert lamp.publish("a/b") != DENIED
        run("acl", "check", "lamp", "write", "a/b", "--live", "--password-file", "-", name=name, text=password)
        run("user", "remove", "lamp", name=name)
        lamp.wait_closed()
    status = json.loads(run("status", "--json", name=name).stdout)
    assert status["backend"] == "docker"
    assert status["health"] in ("starting", "healthy")
    assert re.search(r"^  health     (starting|healthy)$", run("status", name=name).stdout, re.M)
    assert status["version"].startswith("2.0.")


def test_tls_is_served_from_the_container_and_renewed(name: str) -> None:
    """cert init, server, restart --tls-port, a verified login, renew."""
    run("cert", "init", name=name)
    run("cert", "server", name=name)
    run("restart", "--tls-port", str(free_port()), name=name)
    profile = profile_of(name)
    assert profile.tls_port
    assert profile.ca_file
    tls = {"ca_certs": profile.ca_file}
    assert login(profile.tls_port, profile.username, profile.password, tls=tls) == 0
    before = run("cert", "show", "--json", name=name).stdout
    run("cert", "renew", name=name)
    rows = {row["role"]: row["serial"] for row in json.loads(run("cert", "show", "--json", name=name).stdout)}
    assert rows["server"] == rows["served"]
    assert rows["served"] not in before
    assert login(profile.tls_port, profile.username, profile.password, tls=tls) == 0


@pytest.mark.parametrize("lost", [("broker.json",), ("broker.json", "profile.json")])
def test_a_container_whose_settings_are_lost_gets_no_second_broker_beside_it(name: str, lost: tuple[str, ...]) -> None:
    """`up` starts it again with its image, users and messages; another backend is an error."""
    profile = profile_of(name)
    run("user", "add", "lamp", "--role", "device", "--password-file", "-", name=name, text=PASSWORD)
    directory = existing_broker(name).paths.directory
    for file in lost:
        (directory / file).unlink()
    (directory / "left").touch()
    assert "its settings are lost" in run("up", "--backend", "process", name=name, code=2).stderr
    assert "its settings are lost" in run("up", "--port", str(profile.port), name=name).stderr
    assert existing_broker(name).backend == "docker"
    assert login(profile.port, "lamp", PASSWORD) == 0
    assert json.loads(run("status", "--json", name=name).stdout)["state"] == "up"


def test_the_log_survives_restart_and_down(name: str) -> None:
    """Also for `--tail`, when the container is gone."""
    first = run("logs", name=name).stdout.splitlines()
    assert first
    run("restart", name=name)
    both = run("logs", name=name).stdout.splitlines()
    assert both[: len(first)] == first
    run("down", name=name)
    kept = run("logs", name=name).stdout.splitlines()
    assert set(both) <= set(kept)
    assert run("logs", "--tail", "1", name=name).stdout.splitlines() == kept[-1:]


def test_a_container_is_backed_up_and_restored(name: str, tmp_path: Path) -> None:
    """Proven by a throwaway container; the retained message and the user come back."""
    profile = profile_of(name)
    run("user", "add", "lamp", "--role", "device", "--password-file", "-", name=name, text=PASSWORD)
    with Probe(profile.port, profile.username, profile.password) as writer:
        writer.publish("kept/a", b"value", retain=True)
    archive = str(tmp_path / "archive")
    manifest = json.loads(run("backup", "create", archive, "--json", name=name).stdout)
    assert manifest["summary"]["retained"] == 1
    assert manifest["image"].startswith(f"{IMAGE}@sha256:")
    verified = run("backup", "verify", archive, name=name)
    assert "cannot be used here" not in verified.stderr
    with Probe(profile.port, profile.username, profile.password) as writer:
        writer.publish("kept/a", b"", retain=True)
    run("user", "remove", "lamp", name=name)
    assert "is running" in run("backup", "restore", archive, name=name, code=1).stderr
    run("down", name=name)
    run("backup", "restore", archive, name=name)
    run("up", name=name)
    profile = profile_of(name)
    with Probe(profile.port, profile.username, profile.password) as reader:
        reader.subscribe("kept/#")
        assert reader.wait_for_messages(1)[0].payload == b"value"
    assert login(profile.port, "lamp", PASSWORD) == 0


def test_a_broken_or_missing_file_at_a_reload_opens_nothing(name: str) -> None:
    """A broken ACL and a missing password file are refused before the container sees a signal."""
    broker = existing_broker(name)
    profile = profile_of(name)
    acl = broker.read_file("config/acl") or b""
    broker.write_file("config/acl", b"topic reed a\n")
    assert "config/acl:1" in run("reload", name=name, code=2).stderr
    broker.write_file("config/acl", acl)
    passwd = broker.read_file("config/passwd") or b""
    broker.remove_file("config/passwd")
    assert "config/passwd is missing" in run("reload", name=name, code=2).stderr
    broker.write_file("config/passwd", passwd)
    run("reload", name=name)
    assert login(profile.port, "stranger", "stranger") == DENIED
    assert login(profile.port, profile.username, profile.password) == 0


def test_a_broker_that_opens_at_a_reload_is_stopped(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the written ACL is broken behind our back, the canary sees it and the container is stopped."""
    broker = existing_broker(name)
    write = type(broker).write_file

    def sabotage(self: Broker, file: str, content: bytes) -> None:
        write(self, file, content)
        if file == "config/passwd":
            write(self, "config/acl", b"topic reed a\n")

    monkeypatch.setattr(type(broker), "write_file", sabotage)
    with pytest.raises(BrokerOpened), locked(broker.paths):
        apply_changes(broker)
    assert broker.running() is None


def test_a_link_in_the_container_is_not_followed(name: str) -> None:
    """A password file that is a symbolic link is refused."""
    with connect_engine() as client:
        container = client.containers.get(f"mqttkit-{name}")
        config = "/mosquitto/config"
        run_in(container, "sh", "-c", f"mv {config}/passwd {config}/real; ln -sf real {config}/passwd")
        assert "is not a regular file" in run("user", "list", name=name, code=2).stderr
        run_in(container, "sh", "-c", f"mv -f {config}/real {config}/passwd")
    run("user", "list", name=name)


def test_compose_says_the_same_as_the_container(name: str) -> None:
    """Image, ports, volumes, limits and health check of the printed file are those of the container."""
    service = yaml.safe_load(run("compose", name=name).stdout)["services"][f"mqttkit-{name}"]
    with connect_engine() as client:
        attributes = client.containers.get(f"mqttkit-{name}").attrs
    host = attributes["HostConfig"]
    published = {
        f"{entry['HostIp']}:{entry['HostPort']}:{inner.removesuffix('/tcp')}"
        for inner, entries in host["PortBindings"].items()
        for entry in entries
    }
    assert set(service["ports"]) == published
    assert service["mem_limit"] == host["Memory"]
    assert service["ulimits"]["nofile"]["soft"] == host["Ulimits"][0]["Soft"]
    assert {f"{entry}:rw" for entry in service["volumes"]} == set(host["Binds"])
    assert service["healthcheck"]["test"][1].replace("$$", "$") == attributes["Config"]["Healthcheck"]["Test"][1]
    assert service["labels"].items() <= attributes["Config"]["Labels"].items()
    assert set(service["cap_add"]) == set(host["CapAdd"])


def test_doctor_finds_a_container_in_order(name: str) -> None:
    """No check fails on what `up` made."""
    done = subprocess.run(
        [sys.executable, "-m", "mqttkit", "broker", "doctor", "--json", "--name", name],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    findings = json.loads(done.stdout)["findings"]
    assert [found for found in findings if found["verdict"] == "fail"] == []
    assert sum(found["verdict"] == "pass" for found in findings) > 20


def test_brokers_of_one_network_are_bridged_by_name_with_tls(client: Any, tmp_path: Path) -> None:
    """The certificate has the container's name. From this machine that name means nothing: no message is sent."""
    network = client.networks.create(f"n{uuid.uuid4().hex[:8]}")
    names = [f"c{uuid.uuid4().hex[:8]}" for _ in range(2)]
    cloud, site = names
    place = ("--backend", "docker", "--image", IMAGE, "--port", "0", "--websocket-port", "0", "--network", network.name)
    try:
        run("up", *place, "--tls-port", str(free_port()), name=cloud)
        run("up", *place, name=site)
        secret = tmp_path / "secret"
        secret.write_text(run("user", "add", "site", "--role", "device", "--generate", name=cloud).stdout)
        to = ("--to", f"mqtts://site@mqttkit-{cloud}:8883", "--cafile", str(profile_of(cloud).ca_file))
        topic = ("--topic", "sensors/site/#", "--password-file", str(secret))
        said = run("bridge", "add", "up", *to, *topic, name=site).stdout
        assert "is connected" in said
        assert "not sent: cannot reach" in said
        with Probe(*login_of(cloud)) as reader, Probe(*login_of(site)) as writer:
            reader.subscribe("sensors/#")
            writer.publish("sensors/site/t", b"21")
            assert reader.wait_for_messages(1)[0].payload == b"21"
    finally:
        for name in names:
            run("down", "--volumes", "--yes", name=name, code=None)
        network.remove()


def login_of(name: str) -> tuple[int, str | None, str | None]:
    profile = profile_of(name)
    return profile.port, profile.username, profile.password
