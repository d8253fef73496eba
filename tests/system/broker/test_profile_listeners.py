"""`pub` and `sub` against each listener of a broker that `broker up` started: its profile serves them all."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from mqttkit.broker import LACKS, Feature, Profile
from mqttkit.broker.backends.embedded import MAX_OUTGOING
from mqttkit.broker.profile import load_profile
from tests.support.brokers import free_port, need
from tests.support.commands import mqttkit
from tests.support.tls import Authority

pytestmark = pytest.mark.system


def done(*words: str, code: int = 0, **options: Any) -> bytes:
    """Run `mqttkit …`, demand its exit code, return its stdout and stderr."""
    result = mqttkit(*words, **options)
    said = result.stdout + result.stderr
    assert result.returncode == code, said
    return said


def retained(topic: str) -> bytes:
    """Return the line of the message that the broker keeps on `topic`."""
    return done("sub", topic, "-C", "1", "-W", "20")


def profile() -> Profile:
    found = load_profile()
    assert found is not None
    return found


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state directory in which all tests of a module can leave their broker."""
    return tmp_path_factory.mktemp("state")


@pytest.fixture(scope="module")
def broker(request: pytest.FixtureRequest, state: Path) -> Iterator[str]:
    """A broker of the backend asked for, in `state`: mosquitto with TLS and WebSockets, or the embedded one."""
    backend: str = request.param
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(state))
        words = ["broker", "up", "--backend", backend, "--port", str(free_port())]
        if backend == "process":
            need("mosquitto")
            done("broker", "cert", "init")
            words += ["--tls-port", str(free_port()), "--websocket-port", str(free_port())]
        done(*words)
        yield backend
        done("broker", "down", "--volumes", "--yes")
    shutil.rmtree(state)


@pytest.fixture(autouse=True)
def use(monkeypatch: pytest.MonkeyPatch, broker: str, state: Path) -> None:
    """Let the test and its subprocesses find that broker."""
    monkeypatch.setenv("XDG_STATE_HOME", str(state))


WAYS: dict[str, Callable[[Profile], list[str]]] = {
    "nothing": lambda p: [],
    "its host": lambda p: ["-h", "localhost"],
    "its address": lambda p: ["-h", f"{p.host}:{p.port}"],
    "WebSockets": lambda p: ["--ws"],
    "the port of WebSockets": lambda p: ["-p", str(p.websocket_port)],
    "a URL of WebSockets": lambda p: ["-L", f"ws://localhost:{p.websocket_port}/"],
    "TLS": lambda p: ["-h", p.host, "--tls"],
    "TLS with the authority": lambda p: ["--cafile", str(p.ca_file)],
    "the port of TLS": lambda p: ["-h", p.host, "-p", str(p.tls_port)],
    "a URL of TLS": lambda p: ["-L", f"mqtts://{p.host}:{p.tls_port}/"],
}


@pytest.mark.parametrize("broker", ["process"], indirect=True)
@pytest.mark.parametrize("way", list(WAYS))
def test_each_listener_of_the_profile_is_reached_with_its_user_and_authority(broker: str, way: str, topic: str) -> None:
    """Naming a listener by port, URL or what it speaks is enough: user, password and CA come from the profile."""
    done("pub", topic, "-m", way, "-q", "1", "-r", *WAYS[way](profile()))
    assert retained(topic) == f"{way}\n".encode()


@pytest.mark.parametrize("broker", ["process"], indirect=True)
def test_another_authority_than_the_profile_s_still_counts(broker: str, topic: str, tmp_path: Path) -> None:
    """--cafile beats the profile: what it does not hold is not trusted."""
    authority = Authority(tmp_path, "somebody else")
    said = done("pub", topic, "-m", "x", "-p", str(profile().tls_port), "--cafile", authority.file, code=3)
    assert b"not trusted" in said


@pytest.mark.parametrize("broker", ["process"], indirect=True)
def test_websockets_under_tls_are_reached_as_well(broker: str, topic: str) -> None:
    """wss, chosen by port or by protocol; --ws alone finds the only WebSocket listener."""
    done("broker", "restart", "--websocket-tls")
    try:
        for way in (["--ws", "--tls"], ["--ws"], ["-L", f"wss://localhost:{profile().websocket_port}/"]):
            done("pub", topic, "-m", way[0] + way[-1], "-q", "1", "-r", *way)
            assert retained(topic) == f"{way[0]}{way[-1]}\n".encode()
    finally:
        done("broker", "restart", "--no-websocket-tls")


@pytest.mark.parametrize("broker", ["embedded"], indirect=True)
def test_mqtt_5_goes_to_its_own_port(broker: str, topic: str) -> None:
    """-V 5, and the port itself: a property of MQTT 5 arrives."""
    for way in (["-V", "5"], ["-p", str(profile().v5_port)]):
        done("pub", topic, "-m", "x", "-r", "--content-type", "text/plain", *way)
        message = json.loads(done("sub", topic, "-C", "1", "-W", "20", "--json", *way))
        assert message["properties"]["content_type"] == "text/plain"
        done("pub", topic, "-n", "-r", *way)


@pytest.mark.parametrize("broker", ["embedded"], indirect=True)
def test_a_new_subscriber_of_the_embedded_broker_gets_so_many_retained_messages(broker: str, topic: str) -> None:
    """As many as `status` says, and not all; mosquitto's have no such limit."""
    lines = [
        json.dumps({"topic": f"{topic}/{number}", "payload": "x", "qos": 1, "retain": True})
        for number in range(MAX_OUTGOING + 100)
    ]
    done("pub", "--json", stdin="\n".join(lines).encode())
    assert done("sub", f"{topic}/#", "--retained-only").count(b"\n") == MAX_OUTGOING
    assert str(MAX_OUTGOING) in LACKS["embedded"][Feature.RETAINED]


@pytest.mark.parametrize("broker", ["embedded"], indirect=True)
@pytest.mark.parametrize("version", [MQTTProtocolVersion.MQTTv311, MQTTProtocolVersion.MQTTv5])
def test_the_embedded_broker_does_not_answer_every_unsubscribe(
    broker: str, topic: str, version: MQTTProtocolVersion
) -> None:
    """What `status` says it lacks: an UNSUBACK comes for a subscription there is, and for no other."""
    found, answered, subscribed = profile(), threading.Event(), threading.Event()
    client = paho.Client(CallbackAPIVersion.VERSION2, protocol=version)
    client.username_pw_set(found.username or "", found.password)
    client.on_connect = lambda *_: client.subscribe(topic)
    client.on_subscribe = lambda *_: subscribed.set()
    client.on_unsubscribe = lambda *_: answered.set()
    port = found.v5_port if version == MQTTProtocolVersion.MQTTv5 else found.port
    client.connect(found.host, port or 0)
    client.loop_start()
    try:
        assert subscribed.wait(60)
        client.unsubscribe(f"{topic}/other")
        assert not answered.wait(2)
        client.unsubscribe(topic)
        assert answered.wait(60)
    finally:
        client.disconnect()
        client.loop_stop()
