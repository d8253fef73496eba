"""`mqttkit retained` on a real broker."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mqttkit.client import MqttClient
from mqttkit.messages import Message, Properties
from mqttkit.publisher import Publisher
from mqttkit.settings import BrokerSettings, MqttSettings
from mqttkit.testing.broker import TestBroker
from tests.support.brokers import Mosquitto, mosquitto
from tests.support.commands import invoke

pytestmark = pytest.mark.system


def retain(broker: Mosquitto, *messages: Message) -> None:
    """Publish retained messages."""
    settings = MqttSettings(broker=BrokerSettings(host="127.0.0.1", port=broker.port))
    with MqttClient(settings) as client:
        client.connect()
        publisher = Publisher(client)
        publisher.send([message._replace(retain=True, qos=max(message.qos, 1)) for message in messages])
        publisher.finish(30)


def shown(broker: Mosquitto, topic: str) -> list[str]:
    """Return the retained messages below a topic."""
    return (
        invoke("sub", "--retained-only", "-v", f"{topic}/#", port=broker.port)
        .stdout.decode(errors="replace")
        .splitlines()
    )


@pytest.fixture
def three(shared_broker: TestBroker, topic: str) -> Mosquitto:
    """A broker with three retained messages below the topic."""
    properties = Properties(content_type="a/b", user_properties=(("k", "v"),))
    retain(
        shared_broker,
        Message(f"{topic}/a", b"1"),
        Message(f"{topic}/b", b"\x00\xff", 2, properties=properties),
        Message(f"{topic}/c", b"3"),
    )
    return shared_broker


def test_list_shows_topic_qos_and_size(three: Mosquitto, topic: str) -> None:
    """As a table, and as JSON lines."""
    table = invoke("retained", "list", f"{topic}/#", port=three.port).stdout.decode(errors="replace").splitlines()
    assert [line.split() for line in table] == [
        ["topic", "qos", "bytes"],
        [f"{topic}/a", "1", "1"],
        [f"{topic}/b", "2", "2"],
        [f"{topic}/c", "1", "1"],
    ]
    lines = invoke("retained", "list", "--json", f"{topic}/b", port=three.port).stdout
    assert json.loads(lines) == {"topic": f"{topic}/b", "qos": 2, "bytes": 2}


def test_prune_removes_and_restore_brings_everything_back(three: Mosquitto, topic: str, tmp_path: Path) -> None:
    """With payload bytes, QoS and properties; a comparison with a snapshot of before finds nothing."""
    before, saved = tmp_path / "before.jsonl.zst", tmp_path / "undo.jsonl.zst"
    assert invoke("retained", "snapshot", f"{topic}/#", "-o", str(before), port=three.port).returncode == 0
    pruned = invoke("retained", "prune", f"{topic}/#", "--yes", "--json", "-o", str(saved), port=three.port)
    assert (pruned.returncode, json.loads(pruned.stdout)["done"]) == (0, 3)
    assert shown(three, topic) == []
    missing = invoke("retained", "diff", str(before), port=three.port)
    assert (missing.returncode, len(missing.stdout.splitlines())) == (1, 3)
    restored = invoke("retained", "restore", str(saved), "--json", port=three.port)
    assert json.loads(restored.stdout) == {"done": 3, "unchanged": 0, "refused": 0, "reasons": {}}
    same = invoke("retained", "diff", str(before), port=three.port)
    assert (same.returncode, same.stdout) == (0, b"")


def test_restore_publishes_only_what_differs(three: Mosquitto, topic: str, tmp_path: Path) -> None:
    """What is as it was stays untouched, and so does what is not in the snapshot."""
    saved = tmp_path / "a.jsonl.zst"
    invoke("retained", "snapshot", f"{topic}/#", "-o", str(saved), port=three.port)
    retain(three, Message(f"{topic}/a", b"changed"), Message(f"{topic}/new", b"n"))
    found = invoke("retained", "diff", str(saved), "--json", port=three.port).stdout.splitlines()
    assert sorted((each["topic"], each["difference"]) for each in map(json.loads, found)) == [
        (f"{topic}/a", "changed"),
        (f"{topic}/new", "added"),
    ]
    restored = invoke("retained", "restore", str(saved), "--json", port=three.port)
    assert json.loads(restored.stdout) == {"done": 1, "unchanged": 2, "refused": 0, "reasons": {}}
    assert f"{topic}/a 1" in shown(three, topic)
    assert f"{topic}/new n" in shown(three, topic)


def test_prune_asks_first(three: Mosquitto, topic: str, tmp_path: Path) -> None:
    """Without a terminal it needs --yes, and removes nothing."""
    done = invoke("retained", "prune", f"{topic}/#", port=three.port, cwd=tmp_path)
    assert done.returncode == 2
    assert b"confirm with --yes" in done.stderr
    assert f"{topic}/a".encode() in done.stderr
    assert len(shown(three, topic)) == 3
    assert len(list(tmp_path.glob("retained-*.jsonl.zst"))) == 1


def test_pruning_nothing_is_not_an_error(shared_broker: TestBroker, topic: str, tmp_path: Path) -> None:
    """And leaves no file."""
    done = invoke("retained", "prune", f"{topic}/#", "--yes", port=shared_broker.port, cwd=tmp_path)
    assert (done.returncode, done.stdout, list(tmp_path.glob("*.zst"))) == (0, b"", [])
    assert b"no retained messages match" in done.stderr


def test_a_denied_removal_is_named(tmp_path: Path, topic: str) -> None:
    """Exit code 6, the topic and the broker's reason; the others are removed."""
    acl = tmp_path / "acl"
    acl.write_text(f"user writer\ntopic readwrite #\n\nuser pruner\ntopic read #\ntopic write {topic}/a\n")
    acl.chmod(0o600)
    with mosquitto(tmp_path / "guarded", f"acl_file {acl}") as broker:
        settings = MqttSettings(broker=BrokerSettings(host="127.0.0.1", port=broker.port, username="writer"))
        with MqttClient(settings) as client:
            client.connect()
            for name in ("a", "fixed"):
                client.publish(f"{topic}/{name}", b"1", qos=1, retain=True).result(5)
        done = invoke(
            *("retained", "prune", f"{topic}/#", "--yes", "--json", "-u", "pruner"), port=broker.port, cwd=tmp_path
        )
        assert done.returncode == 6
        assert json.loads(done.stdout)["reasons"] == {f"{topic}/fixed": "not authorized"}
        assert f"1 retained messages not removed, the first on topic '{topic}/fixed'" in done.stderr.decode()
        left = invoke("sub", "--retained-only", "-v", f"{topic}/#", "-u", "writer", port=broker.port)
        assert left.stdout.decode().splitlines() == [f"{topic}/fixed 1"]


def test_a_shared_subscription_has_no_retained_messages(shared_broker: TestBroker) -> None:
    """A usage error, not an empty list."""
    done = invoke("retained", "list", "$share/g/a", port=shared_broker.port)
    assert (done.returncode, b"shared subscription" in done.stderr) == (2, True)
