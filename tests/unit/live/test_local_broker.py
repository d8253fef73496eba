"""The profile of the broker that a view shows."""

from __future__ import annotations

from pathlib import Path

import pytest

from mqttkit.broker.profile import BrokerPaths, BrokerSpec, Profile, save_profile, save_spec
from mqttkit.live.local_broker import local_profile
from mqttkit.settings import BrokerSettings, MqttSettings


def settings(host: str, port: int) -> MqttSettings:
    return MqttSettings(broker=BrokerSettings(host=host, port=port))


@pytest.fixture
def profile() -> Path:
    paths = BrokerPaths.of("plant")
    paths.directory.mkdir(parents=True)
    save_spec(paths, BrokerSpec(name="plant", backend="docker", tuning="high-traffic"))
    save_profile(paths, Profile(name="plant", backend="docker", host="127.0.0.1", port=1990, tls_port=8990))
    return paths.profile


@pytest.mark.parametrize("address", [("127.0.0.1", 1990), ("localhost", 1990), ("::1", 8990)])
def test_a_broker_of_this_machine_is_known_by_its_address(profile: Path, address: tuple[str, int]) -> None:
    assert local_profile(settings(*address)) == "plant: docker, tuned high-traffic"


def test_other_brokers_have_no_profile(profile: Path) -> None:
    assert local_profile(settings("127.0.0.1", 1883)) == ""
    assert local_profile(settings("192.0.2.7", 1990)) == ""


def test_a_broken_profile_is_no_reason_to_fail(profile: Path) -> None:
    profile.write_text("{")
    assert local_profile(settings("127.0.0.1", 1990)) == ""
