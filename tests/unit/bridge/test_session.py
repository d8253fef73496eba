"""What a session belongs to, and when the broker has lost it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mqttkit.bridge.service import Bridge
from mqttkit.bridge.session import BridgeSession, SessionWatch, forget_stored, normal_sink, session_purpose
from mqttkit.settings import BridgeSettings, BrokerSettings, MqttSettings, ReconnectSettings, Settings


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("sqlite:o.db", f"sqlite:{Path.cwd()}/o.db"),
        ("sqlite:~/o.db", f"sqlite:{Path.home()}/o.db"),
        ("jsonl:a/../o.jsonl", "jsonl:o.jsonl"),
        ("redis://localhost", "redis://127.0.0.1:6379"),
        ("redis://user:***@[::1]/1", "redis://user:***@LOCALHOST:6379/1"),
        ("redis+cluster://127.0.0.1:7000,localhost:7001", "redis+cluster://localhost:7000,127.0.0.1:7001"),
        ("http://127.0.0.1:80/x", "http://localhost/x"),
        ("postgresql://u@127.0.0.1/db", "postgresql://u@localhost:5432/db"),
    ],
)
def test_one_sink_has_one_session_however_it_is_written(one: str, other: str) -> None:
    """Another spelling of the same place does not orphan the queue at the broker."""
    assert normal_sink(one) == normal_sink(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("sqlite:o.db", "sqlite:p.db"),
        ("redis://localhost:6380", "redis://localhost"),
        ("redis://localhost.example", "redis://localhost"),
        ("http://localhost:8080/x", "http://localhost/x"),
        ("https://localhost:80/x", "https://localhost/x"),
    ],
)
def test_different_sinks_have_different_sessions(one: str, other: str) -> None:
    """Their sessions have messages for another place."""
    assert normal_sink(one) != normal_sink(other)


def test_one_broker_has_one_session_however_it_is_written() -> None:
    """localhost, its addresses, and upper case."""
    brokers = [BrokerSettings(host=host) for host in ("localhost", "127.0.0.1", "::1", "LOCALHOST")]
    assert len({session_purpose(broker, "metrics/#", "sqlite:x", "") for broker in brokers}) == 1
    other = BrokerSettings(host="localhost", port=1884)
    assert session_purpose(other, "f", "s", "") != session_purpose(brokers[0], "f", "s", "")
    assert session_purpose(brokers[0], "f", "s", "a") != session_purpose(brokers[0], "f", "s", "b")


@pytest.mark.parametrize(
    ("expected", "present", "lost"),
    [
        (False, [False, True, True], 0),
        (True, [True, True], 0),
        (True, [False, True], 1),
        (False, [False, False, True, False], 2),
    ],
)
def test_lost_session_is_counted_and_logged(
    caplog: pytest.LogCaptureFixture, expected: bool, present: list[bool], lost: int
) -> None:
    """The broker had the session before, in this run or an earlier one, and does not have it now."""
    remembered: list[int] = []
    watch = SessionWatch("id", expected=expected, remember=lambda: remembered.append(1))
    for one in present:
        watch.connected(present=one)
    assert watch.lost == caplog.text.count("the broker lost session id") == lost
    assert remembered == ([] if expected else [1])


def test_interruption_is_counted_and_logged_as_possible_loss(caplog: pytest.LogCaptureFixture) -> None:
    """The broker may have been killed. Failed attempts to connect are no further interruption."""
    watch = SessionWatch("id", expected=True, remember=lambda: None)
    watch.disconnected()
    watch.connected(present=True)
    assert (watch.interruptions, caplog.text.count("after an interruption")) == (0, 0)
    for _ in range(3):
        watch.disconnected()
    watch.connected(present=True)
    assert (watch.interruptions, caplog.text.count("after an interruption")) == (1, 1)


def test_output_warns_of_the_session_that_its_sink_had_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A second --sink gives each sink a new session; the broker goes on queueing for the old one until it ends."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))

    def session(output: str = "") -> BridgeSession:
        return BridgeSession(MqttSettings(), topic_filter="t", sink="sqlite:x", target="", output=output)

    with session() as alone:
        alone.watch.connected(present=False)
    with session("sqlite") as output:
        assert output.client_id != alone.client_id
        assert f"mqttkit bridge sessions remove {alone.client_id}" in caplog.text
    caplog.clear()
    forget_stored(alone.client_id)
    with session("sqlite") as again:
        assert again.client_id == output.client_id
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"sink": "postgresql://u@db/plant", "table": "one"}, {"sink": "postgresql://u@db/plant", "table": "other"}),
        ({"sink": "redis://db", "stream": "one"}, {"sink": "redis://db", "list": "other"}),
        ({"sink": "influx://db/plant?rp=week"}, {"sink": "influx://db/plant?rp=year"}),
        ({"sink": "influx://db/?org=one&bucket=plant"}, {"sink": "influx://db/?org=other&bucket=plant"}),
        ({"sink": "http://db/in?to=one"}, {"sink": "http://db/in?to=other"}),
        ({"sink": "nats://db/PLANT?subject=one"}, {"sink": "nats://db/PLANT?subject=other"}),
    ],
)
def test_two_places_of_one_server_have_a_session_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one: dict[str, Any], other: dict[str, Any]
) -> None:
    """Otherwise the bridge that starts first takes the messages that the broker queues for the other one."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))

    def client_id(options: dict[str, Any]) -> str:
        with Bridge(Settings(bridge=BridgeSettings(tenants="tenants.yaml", **options)))._open_session() as session:
            return session.client_id

    assert client_id(one) == client_id(one)
    assert client_id(one) != client_id(other)


@pytest.mark.parametrize(("given", "expected"), [(30.0, 2.0), (0.5, 0.5)])
def test_bridge_waits_two_seconds_at_most_between_attempts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: float, expected: float
) -> None:
    """After a long outage the devices are back immediately, and their messages need the bridge."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    mqtt = MqttSettings(reconnect=ReconnectSettings(initial_delay=0.2, max_delay=given))
    with BridgeSession(mqtt, topic_filter="t", sink="sqlite:x", target="") as session:
        assert session.settings.reconnect.max_delay == expected
