"""What `up` leaves on disk, and what may be asked for."""

from __future__ import annotations

import stat
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mqttkit.broker import LACKS, BrokerPaths, BrokerSpec, Feature, Profile, profile, require
from mqttkit.broker.profile import load_profile, load_spec, locked, read_profile, save_profile, save_spec
from mqttkit.errors import LifecycleError, UsageError

PROFILE = Profile(name="default", backend="process", host="127.0.0.1", port=1883, username="u", password="secret")


def test_a_profile_is_read_back_and_only_its_owner_may_read_it():
    paths = BrokerPaths.of("default")
    with locked(paths):
        save_profile(paths, PROFILE)
    assert load_profile() == PROFILE
    assert stat.S_IMODE(paths.profile.stat().st_mode) == 0o600


def test_no_profile_is_none():
    assert load_profile("nothing-there") is None


def test_the_password_is_not_in_the_repr():
    assert "secret" not in repr(PROFILE)
    assert "secret" not in repr(PROFILE.to_broker_settings())


def test_a_profile_of_a_newer_version_is_read(tmp_path: Path):
    paths = BrokerPaths(tmp_path)
    save_profile(paths, PROFILE)
    paths.profile.write_text(paths.profile.read_text().replace("{", '{"new": 1,', 1))
    assert read_profile(paths) == PROFILE


@pytest.mark.parametrize("content", ["", "[]", "{", '{"name": "x"}', "\x00"])
def test_a_broken_profile_is_one_clear_error(tmp_path: Path, content: str):
    paths = BrokerPaths(tmp_path)
    paths.profile.write_text(content)
    with pytest.raises(LifecycleError, match=r"profile\.json"):
        read_profile(paths)


def test_a_spec_is_read_back(tmp_path: Path):
    spec = BrokerSpec(port=1, overrides={"max_connections": 5})
    save_spec(BrokerPaths(tmp_path), spec)
    assert load_spec(BrokerPaths(tmp_path)) == spec


@pytest.mark.parametrize("name", ["", "..", "a/b", ".x", "-x", "a" * 49, "a b", "a\n"])
def test_names_that_are_no_plain_file_names_are_refused(name: str):
    with pytest.raises(UsageError):
        BrokerPaths.of(name)


@pytest.mark.parametrize("listen", ["0.0.0.0", "192.0.2.1", "::", "broker.example"])
def test_anonymous_beyond_loopback_must_be_asked_for_twice(listen: str):
    with pytest.raises(UsageError, match="open the broker to the network"):
        BrokerSpec(anonymous=True, listen=listen).check()
    BrokerSpec(anonymous=True, listen=listen, allow_remote_anonymous=True).check()


@pytest.mark.parametrize("listen", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_anonymous_does_not_raise_on_loopback_and_does_elsewhere(listen: str):
    spec = BrokerSpec(anonymous=True, listen=listen)
    spec.check()
    with pytest.raises(UsageError, match="anonymous"):
        replace(spec, listen="0.0.0.0").check()


def test_two_listeners_cannot_share_a_port():
    with pytest.raises(UsageError, match="share a port"):
        BrokerSpec(port=9001, websocket_port=9001).check()


def test_the_lock_lets_one_command_at_a_time_in(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(profile, "LOCK_SECONDS", 0.1)
    paths = BrokerPaths.of("default")
    inside, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with locked(paths):
            inside.set()
            leave.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    assert inside.wait(60)
    with pytest.raises(LifecycleError, match="another command"), locked(paths):
        pass
    leave.set()
    thread.join(60)
    with locked(paths):
        pass
    assert not paths.directory.exists()


def test_a_feature_that_a_backend_lacks_is_refused_by_name():
    class Embedded:
        backend = "embedded"

    with pytest.raises(UsageError, match="--users is not possible with the embedded backend: one user"):
        require(Embedded(), Feature.USERS, "--users")  # type: ignore[arg-type]


def test_every_backend_says_what_it_lacks():
    assert set(LACKS) == {"docker", "process", "embedded"}
    assert set(LACKS["embedded"]) == set(Feature)


def test_a_network_needs_a_container():
    with pytest.raises(UsageError, match="needs the docker backend"):
        BrokerSpec(backend="process", network="plant").check()


@pytest.mark.parametrize(
    ("given", "hint"),
    [
        ({}, "--tls-port 8883"),
        ({"tls_port": 8883, "websocket_port": 9001}, "--websocket-tls"),
        ({"tls_port": 8883, "client_certificates": True}, "Drop --no-plain"),
    ],
)
def test_tls_only_needs_tls_on_every_listener(given: dict[str, Any], hint: str):
    with pytest.raises(UsageError) as caught:
        BrokerSpec(plain=False, **given).check()
    assert hint in str(caught.value.hint)
