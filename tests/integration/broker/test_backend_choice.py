"""Which backend `auto` chooses, and the error if there is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from mqttkit import broker
from mqttkit.broker import BrokerSpec, open_broker, start_broker, usable_backends
from mqttkit.broker.backends import embedded, native
from mqttkit.errors import MissingPart, PermissionMissing, UsageError


@pytest.fixture
def no_docker(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/no.sock")


@pytest.fixture
def no_mosquitto(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(native, "SYSTEM_PATHS", str(tmp_path))


@pytest.fixture
def no_iotcore(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded.EmbeddedBroker, "unusable", classmethod(lambda cls: "no iotcore"))


def test_without_engine_and_mosquitto_it_is_the_embedded_one(no_docker: None, no_mosquitto: None):
    assert usable_backends() == ["embedded"]
    assert open_broker(BrokerSpec()).backend == "embedded"


def test_without_any_each_is_named_with_what_it_misses(no_docker: None, no_mosquitto: None, no_iotcore: None):
    with pytest.raises(
        MissingPart, match=r"docker: .*; process: mosquitto is not installed; embedded: no iotcore"
    ) as e:
        usable_backends()
    assert "apt-get install mosquitto" in e.value.hint
    assert e.value.exit_code == 7


def test_a_backend_asked_for_by_name_is_not_replaced(no_mosquitto: None):
    with pytest.raises(MissingPart, match="mosquitto is not installed"):
        start_broker(BrokerSpec(backend="process", port=0))
    with pytest.raises(UsageError, match="unknown backend 'hivemq'"):
        open_broker(BrokerSpec(backend="hivemq"))


def test_a_missing_part_gives_way_to_the_next_and_a_missing_right_does_not(
    no_docker: None, monkeypatch: pytest.MonkeyPatch
):
    """What fails with one backend for want of a right would fail with each."""
    tried = []

    def up(self: object) -> None:
        tried.append(type(self).__name__)
        raise errors[type(self).__name__]

    errors = {"ProcessBroker": MissingPart("no program"), "EmbeddedBroker": PermissionMissing("no right")}
    monkeypatch.setattr(native.ProcessBroker, "unusable", classmethod(lambda cls: ""))
    monkeypatch.setattr(native.ProcessBroker, "up", up)
    monkeypatch.setattr(embedded.EmbeddedBroker, "up", up)
    with pytest.raises(PermissionMissing):
        start_broker(BrokerSpec())
    assert tried == ["ProcessBroker", "EmbeddedBroker"]
    errors["ProcessBroker"] = PermissionMissing("no right")
    with pytest.raises(PermissionMissing):
        start_broker(BrokerSpec())
    assert tried[2:] == ["ProcessBroker"]
    assert not broker.BrokerPaths.of("default").directory.exists()
