"""`broker cert` with a real mosquitto that listens with TLS."""

from __future__ import annotations

import datetime
import json
import ssl
import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from mqttkit.broker import Broker, BrokerSpec, existing_broker, start_broker
from mqttkit.broker.certificates.authority import Authority
from mqttkit.broker.live.certificates import served_certificate
from mqttkit.broker.ports import bound_addresses
from mqttkit.broker.probe import Login, websocket_answer
from mqttkit.broker.profile import Profile, locked
from mqttkit.cli import cli
from mqttkit.client import MqttClient
from mqttkit.errors import BrokerUnreachable
from mqttkit.settings import MqttSettings, TlsSettings
from tests.support.brokers import free_port, need, profile_of
from tests.support.probe import Probe, login

NOT_AUTHORISED = 135


def run(*words: str, code: int = 0) -> Result:
    """Run `mqttkit broker …` and demand its exit code."""
    result = CliRunner().invoke(cli, ["broker", *words])
    assert result.exit_code == code, result.output
    return result


@pytest.fixture
def broker() -> Iterator[Broker]:
    """The default broker, on the process backend, without TLS."""
    need("mosquitto")
    broker, _ = start_broker(BrokerSpec(backend="process", port=0))
    yield broker
    with locked(broker.paths):
        existing_broker().down(volumes=True)


@pytest.fixture
def tls(broker: Broker) -> Broker:
    """The same with authority, server certificate and TLS listener."""
    run("cert", "init")
    run("cert", "server", "--san", "broker.example")
    run("restart", "--tls-port", str(free_port()))
    return existing_broker()


def tls_login(profile: Profile, *, verify: bool = True, **files: Any) -> int | None:
    """Log in over TLS, the server proven by the profile's authority."""
    assert profile.tls_port
    arguments = {"ca_certs": profile.ca_file, **files}
    if not verify:
        arguments["cert_reqs"] = ssl.CERT_NONE
    return login(profile.tls_port, profile.username, profile.password, tls=arguments)


def test_from_nothing_to_a_verified_tls_login(tls: Broker) -> None:
    """init, server, restart --tls-port: our own client and paho verify the chain and the name."""
    profile = profile_of(tls)
    assert tls_login(profile) == 0
    with MqttClient(MqttSettings(broker=profile.to_tls_settings()), retry=False) as client:
        client.connect(timeout=60)
        assert client.connected
    for name in ("config/certs/server.key", "config/certs/server.crt"):
        assert stat.S_IMODE((tls.paths.root / name).stat().st_mode) == 0o600
    assert stat.S_IMODE((tls.paths.authority / "ca.key").stat().st_mode) == 0o600
    assert not list(tls.paths.root.rglob("ca.key"))


def test_a_renewed_certificate_is_served_when_the_command_returns(tls: Broker) -> None:
    """Same names, new serial, no restart; connected clients stay."""
    profile = profile_of(tls)
    assert profile.tls_port
    before = served_certificate(profile.host, profile.tls_port)
    pid = tls.running()
    run("cert", "renew")
    after = served_certificate(profile.host, profile.tls_port)
    assert after.serial != before.serial
    assert after.names == before.names
    assert tls.running() == pid
    assert tls_login(profile) == 0
    run("cert", "renew", "--ca")
    assert tls_login(profile) == 0


def test_show_tells_all_and_what_is_served(tls: Broker, tmp_path: Path) -> None:
    """Authority, server, served and clients, with days left; the served serial is the file's."""
    run("cert", "client", "lamp")
    rows = {row["role"]: row for row in json.loads(run("cert", "show", "--json").stdout)}
    assert set(rows) == {"ca", "server", "served", "client"}
    assert rows["served"]["serial"] == rows["server"]["serial"]
    assert rows["client"]["subject"] == "lamp"
    assert 364 < rows["server"]["days_left"] < 366
    text = run("cert", "show").stdout
    assert "for broker.example, localhost" in text


def test_an_expired_certificate_is_named_refused_and_renewed(tls: Broker) -> None:
    """Clients refuse it, `show` ends with 1 and says what to do, `renew` fixes that while the broker runs."""
    profile = profile_of(tls)
    long_ago = datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(days=30)
    issued = Authority.load(tls.paths.authority).renewed(now=long_ago).sign_server(days=10, now=long_ago)
    tls.write_file("config/certs/server.crt", issued.certificate)
    tls.write_file("config/certs/server.key", issued.key)
    run("reload")
    with (
        MqttClient(MqttSettings(broker=profile.to_tls_settings()), retry=False) as client,
        pytest.raises(BrokerUnreachable, match="expired"),
    ):
        client.connect(timeout=60)
    result = run("cert", "show", code=1)
    assert "expired" in result.stdout
    assert "mqttkit broker cert renew" in result.stderr
    run("cert", "renew")
    assert tls_login(profile) == 0
    run("cert", "show")


def test_soon_expiring_is_warned_of(tls: Broker) -> None:
    """30 days ahead, on stderr, exit 0."""
    run("cert", "server", "--days", "20")
    assert "is expiring: mqttkit broker cert renew" in run("cert", "show").stderr


def test_a_served_certificate_that_is_not_the_file_s_is_seen(tls: Broker) -> None:
    """Files changed and no reload: `show` ends with 1."""
    issued = Authority.load(tls.paths.authority).sign_server()
    tls.write_file("config/certs/server.crt", issued.certificate)
    tls.write_file("config/certs/server.key", issued.key)
    assert "serves another certificate" in run("cert", "show", code=1).stderr
    run("reload")
    run("cert", "show")


def test_client_certificates_are_demanded_and_open_the_door(tls: Broker, tmp_path: Path) -> None:
    """mTLS: without one the handshake fails, with one of another authority too, with ours it works."""
    run("restart", "--client-certificates")
    profile = profile_of(existing_broker())
    files = run("cert", "client", "lamp", "--out", str(tmp_path)).stdout.split()
    assert [Path(path).name for path in files] == ["lamp.crt", "lamp.key", "ca.crt"]
    assert stat.S_IMODE((tmp_path / "lamp.key").stat().st_mode) == 0o600
    assert tls_login(profile, certfile=files[0], keyfile=files[1]) == 0
    other = Authority.create("other")
    issued = other.sign_client("lamp")
    (tmp_path / "bad.crt").write_bytes(issued.certificate)
    (tmp_path / "bad.key").write_bytes(issued.key)
    foreign = {"cert_file": str(tmp_path / "bad.crt"), "key_file": str(tmp_path / "bad.key")}
    for given in ({}, foreign):
        settings = replace(profile.to_tls_settings(), tls=TlsSettings(ca_file=profile.ca_file, **given))
        with (
            MqttClient(MqttSettings(broker=settings), retry=False) as client,
            pytest.raises(BrokerUnreachable),
        ):
            client.connect(timeout=60)
    before = (tmp_path / "lamp.crt").read_bytes()
    run("cert", "renew", "lamp", "--out", str(tmp_path))
    assert (tmp_path / "lamp.crt").read_bytes() != before
    assert tls_login(profile, certfile=files[0], keyfile=files[1]) == 0


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("server",), "cert init"),
        (("client", "lamp"), "cert init"),
        (("renew",), "cert server"),
        (("renew", "--ca"), "cert init"),
        (("renew", "lamp"), "no certificate of 'lamp'"),
        (("renew", "lamp", "--ca"), "use either --ca or"),
        (("client", "../x"), "cannot have the name"),
        (("show", "/no/such/file"), "does not exist"),
        (("show", "/etc/passwd"), "is not a certificate"),
    ],
)
def test_bad_requests_end_with_2(broker: Broker, words: tuple[str, ...], reason: str) -> None:
    """Each names the next command."""
    assert reason in run("cert", *words, code=2).stderr


def test_websockets_speak_tls_and_say_when_they_serve_the_old_certificate(broker: Broker) -> None:
    """wss: our client verifies it; a renewal reaches it at the next restart, which the command says."""
    assert "needs --websocket-port" in run("restart", "--websocket-tls", code=2).stderr
    port = free_port()
    run("restart", "--websocket-port", str(port), "--websocket-tls")
    profile = profile_of(existing_broker())
    tls = TlsSettings(ca_file=profile.ca_file)
    settings = replace(profile.to_broker_settings(), port=port, transport="websockets", tls=tls)
    with MqttClient(MqttSettings(broker=settings), retry=False) as client:
        client.connect(timeout=60)
        assert client.connected
    with pytest.raises(BrokerUnreachable):
        websocket_answer(Login(host=profile.host, port=port))
    assert f"wss://127.0.0.1:{port}" in run("status").stdout
    before = served_certificate(profile.host, port).serial
    result = run("cert", "renew")
    after = served_certificate(profile.host, port).serial
    assert (after == before) is ("WebSockets serve the old certificate" in result.stderr)
    run("restart")
    assert served_certificate(profile.host, port).serial != before
    findings = json.loads(CliRunner().invoke(cli, ["broker", "doctor", "--json"]).stdout)["findings"]
    assert [found for found in findings if found["verdict"] == "fail"] == []


def test_nothing_is_overwritten(tls: Broker) -> None:
    """An authority and a client's files are made once."""
    assert "already" in run("cert", "init", code=2).stderr
    run("cert", "client", "lamp")
    assert "already" in run("cert", "client", "lamp", code=2).stderr
    assert "neither a host name" in run("cert", "server", "--san", "a b", code=2).stderr


def test_tls_port_without_a_certificate_makes_one(broker: Broker) -> None:
    """Signed by an authority made on the way, and served."""
    run("restart", "--tls-port", str(free_port()))
    assert "server" in run("cert", "show").stdout
    assert "already" in run("cert", "init", code=2).stderr


def test_a_broker_without_certificates_says_how_to_make_some(broker: Broker) -> None:
    """`cert show` before `cert init`."""
    shown = run("cert", "show")
    assert shown.stdout == ""
    assert "Make some: mqttkit broker cert init" in shown.stderr


def test_a_broker_with_tls_listens_without_it_on_loopback_only(tls: Broker) -> None:
    """--listen is the address of TLS; MQTT without TLS stays where only this machine reaches it."""
    run("restart", "--listen", "0.0.0.0")
    profile = profile_of(tls)
    assert profile.tls_port
    assert bound_addresses(profile.port) == {"127.0.0.1"}
    assert bound_addresses(profile.tls_port) == {"0.0.0.0"}
    assert login(profile.port, profile.username, profile.password) == 0


def test_tls_on_another_address_than_plain_mqtt_is_reached_through_the_profile(tls: Broker) -> None:
    """doctor, `cert show` and clients connect to the address of each listener."""
    run("restart", "--listen", "127.0.0.2")
    profile = profile_of(tls)
    assert (profile.host, profile.to_tls_settings().host) == ("127.0.0.2", "127.0.0.2")
    run("cert", "show")


def test_client_certificates_without_tls_are_refused(broker: Broker) -> None:
    assert "needs a listener with TLS" in run("restart", "--client-certificates", code=2).stderr


def test_a_client_certificate_is_the_identity_until_it_is_revoked(tls: Broker, tmp_path: Path) -> None:
    """The common name is the user, whose ACL applies; after the revocation the listener refuses it, others stay."""
    run("restart", "--client-certificates", "--certificate-users")
    profile = profile_of(tls)
    for name in ("lamp", "other"):
        run("user", "add", name, "--role", "device", "--generate")
        run("cert", "client", name, "--out", str(tmp_path))

    def code(name: str) -> int | None:
        files = {"certfile": str(tmp_path / f"{name}.crt"), "keyfile": str(tmp_path / f"{name}.key")}
        return login(profile.tls_port or 0, None, None, tls={"ca_certs": profile.ca_file, **files})

    assert code("lamp") == 0
    files = {"certfile": str(tmp_path / "lamp.crt"), "keyfile": str(tmp_path / "lamp.key")}
    with Probe(profile.tls_port or 0, None, None, tls={"ca_certs": profile.ca_file, **files}) as lamp:
        assert lamp.publish("sensors/lamp/t") != NOT_AUTHORISED
        assert lamp.publish("sensors/other/t") == NOT_AUTHORISED
    assert "revoked lamp" in run("cert", "revoke", "lamp").stdout
    assert code("lamp") != 0
    assert code("other") == 0
    run("restart")
    assert code("lamp") != 0
    assert "no certificate was issued" in run("cert", "revoke", "nobody", code=2).stderr


def test_an_export_never_replaces_another_authority_s_ca_crt_and_a_client_may_be_named_ca(
    tls: Broker, tmp_path: Path
) -> None:
    run("cert", "client", "ca", "--out", str(tmp_path))
    assert (tmp_path / "client-ca.crt").read_bytes() != (tmp_path / "ca.crt").read_bytes()
    run("cert", "renew", "--ca")
    run("cert", "client", "lamp", "--out", str(tmp_path))
    assert (tmp_path / "ca.crt").read_bytes() == (tls.paths.authority / "ca.crt").read_bytes()
    foreign = Authority.create("other").pem
    (tmp_path / "ca.crt").write_bytes(foreign)
    assert "another authority" in run("cert", "client", "door", "--out", str(tmp_path), code=2).stderr
    assert (tmp_path / "ca.crt").read_bytes() == foreign
    assert not (tmp_path / "door.key").exists()
