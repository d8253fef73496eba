"""A broker on a LAN: what `up` says, what other machines reach, and what `doctor` and the firewall make of it."""

from __future__ import annotations

import json
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mqttkit.broker.ports import bound_addresses
from mqttkit.broker.profile import load_profile
from tests.support.brokers import free_port, need
from tests.support.commands import invoke
from tests.support.network import Network, network

pytestmark = pytest.mark.system
TCP_PORT, TLS_PORT = "1883", "8883"


@pytest.fixture
def lan(monkeypatch: pytest.MonkeyPatch) -> Iterator[Network]:
    """Two machines; a broker that a test left on `server` is removed."""
    need("mosquitto")
    need("nft")
    monkeypatch.setenv("MQTTKIT_MQTT_CLIENT_CONNECT_TIMEOUT", "2")
    with network("server", "client") as made:
        yield made
        on(made, "server", "broker", "down", "--volumes", "--yes", code=None)


def on(lan: Network, machine: str, *words: str, code: int | None = 0) -> subprocess.CompletedProcess[str]:
    """Run `mqttkit …` on a machine and require its exit code."""
    with lan.mqttkit(machine, *words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        out, error = process.communicate(timeout=90)
    assert code in (None, process.returncode), (words, out, error)
    return subprocess.CompletedProcess(words, process.returncode, out, error)


def shell(lan: Network, machine: str, line: str) -> None:
    """Run a command line on a machine."""
    with lan.run(machine, shlex.split(line)) as process:
        assert process.wait(30) == 0, line


def examined(lan: Network) -> dict[str, dict[str, Any]]:
    """Return the last finding of each check on the server's broker."""
    found = json.loads(on(lan, "server", "broker", "doctor", "--json", code=None).stdout)["findings"]
    return {one["check"]: one for one in found}


def up(lan: Network, *options: str) -> subprocess.CompletedProcess[str]:
    place = ("--listen", lan.address("server"), "--port", TCP_PORT)
    return on(lan, "server", "broker", "up", "--backend", "process", *place, *options)


def publish(lan: Network, tmp_path: Path, *, code: int) -> None:
    """Publish from the other machine with TLS as the user `lamp`."""
    profile = load_profile()
    assert profile is not None
    login = ("-u", "lamp", "--password-file", str(tmp_path / "secret"))
    place = ("-h", lan.address("server"), "-p", TLS_PORT, "--cafile", str(profile.ca_file))
    on(lan, "client", "pub", "-t", "sensors/lamp/t", "-m", "x", "-q", "1", *place, *login, code=code)


def test_a_tls_listener_on_the_lan_is_announced_and_a_firewall_rule_that_blocks_it_is_found(
    lan: Network, tmp_path: Path
):
    """The command that doctor prints lets the network connect again."""
    done = up(lan, "--tls-port", TLS_PORT, "--no-plain")
    assert f"mqtts://{lan.address('server')}:{TLS_PORT}" in done.stdout
    assert "other machines can now reach this broker: TLS on" in done.stderr
    assert "WITHOUT TLS" not in done.stderr
    found = examined(lan)
    assert "no user but the operator" in found["network"]["detail"]
    assert found["plain-text"]["verdict"] == "pass"
    assert "every machine may connect" in found["firewall"]["detail"]
    assert found["log"]["verdict"] == "pass"
    password = on(lan, "server", "broker", "user", "add", "lamp", "--role", "device", "--generate").stdout
    (tmp_path / "secret").write_text(password)
    publish(lan, tmp_path, code=0)
    shell(lan, "server", "nft add table inet guard")
    shell(lan, "server", "nft 'add chain inet guard arriving { type filter hook input priority 0; policy drop; }'")
    shell(lan, "server", "nft add rule inet guard arriving iifname lo accept")
    shell(lan, "server", "nft add rule inet guard arriving ct state established,related accept")
    publish(lan, tmp_path, code=3)
    blocked = examined(lan)["firewall"]
    assert (blocked["verdict"], "nftables blocks TLS" in blocked["detail"]) == ("fail", True)
    assert blocked["fix"].startswith("nft insert rule inet guard arriving ip saddr 10.77.0.0/24 ")
    shell(lan, "server", blocked["fix"])
    publish(lan, tmp_path, code=0)
    assert examined(lan)["firewall"]["verdict"] == "pass"


def test_a_plain_listener_on_a_private_network_is_a_warning_and_on_a_public_address_a_failure(lan: Network):
    done = up(lan)
    assert "WITHOUT TLS: passwords and messages travel in clear text" in done.stderr
    assert f"mqtt://{lan.address('server')}:{TCP_PORT}" in done.stdout
    assert examined(lan)["plain-text"]["verdict"] == "warn"
    urls = json.loads(on(lan, "server", "broker", "restart", "--listen", "0.0.0.0", "--json").stdout)["network_urls"]
    assert urls == [f"mqtt://{lan.address('server')}:{TCP_PORT}"]
    shell(lan, "server", "ip address add 9.9.9.9/32 dev lo")
    found = examined(lan)
    assert found["plain-text"]["verdict"] == "fail"
    assert "on a public address" in found["firewall"]["detail"]


def test_without_a_plain_listener_every_command_uses_tls(tmp_path: Path):
    need("mosquitto")
    plain, tls = free_port(), free_port()

    def run(*words: str) -> bytes:
        done = invoke(*words)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run("broker", "up", "--backend", "process", "--port", str(plain), "--tls-port", str(tls), "--no-plain")
    try:
        assert bound_addresses(plain) == set()
        assert json.loads(run("broker", "status", "--json"))["state"] == "up"
        run("pub", "kept", "-m", "yes", "-q", "1", "-r")
        assert run("sub", "kept", "-C", "1", "-W", "60") == b"yes\n"
        run("broker", "user", "add", "lamp", "--role", "device", "--generate")
        run("broker", "reload")
        run("broker", "stats")
        run("broker", "cert", "renew")
        run("broker", "backup", "create", str(tmp_path / "backup"))
        summary = json.loads(run("broker", "doctor", "--json"))["summary"]
        assert summary["fail"] == 0
        run("broker", "restart", "--plain")
        assert bound_addresses(plain) == {"127.0.0.1"}
        assert run("sub", "kept", "-C", "1", "-W", "60") == b"yes\n"
    finally:
        invoke("broker", "down", "--volumes", "--yes")
