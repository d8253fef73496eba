"""Policies stay what their controller published, whatever happens to the retained message or to the state file."""

from __future__ import annotations

import dataclasses
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar

import pytest

from mqttkit.client import MqttClient
from mqttkit.controller import GlobalController, LocalController, MemoryBus, RegionalController
from mqttkit.controller.controller import Controller
from mqttkit.controller.security.gate import SignedCodec
from mqttkit.controller.security.keys import KeyFile, generate
from mqttkit.controller.transports.http_hub import HttpHub
from mqttkit.messages import Message, Subscription
from tests.support.brokers import Mosquitto, mosquitto
from tests.support.controllers import broker_at, eventually, make_keys, settings_of

Kind = TypeVar("Kind", bound=Controller)


class Plant:
    """Controllers and an observer on one broker, under one base topic."""

    def __init__(self, directory: Path, broker: Mosquitto, base: str, stack: ExitStack) -> None:
        self.directory, self.broker, self.base, self.stack = directory, broker, base, stack
        self.codec = SignedCodec(KeyFile(make_keys(directory)))

    def start(self, kind: type[Kind], name: str, **changes: Any) -> Kind:
        """Connect a controller."""
        changes = {"base": self.base, "keep_session": False, "heartbeat_interval": 30.0, **changes}
        controller = kind(settings_of(self.directory, name, **changes), broker_at(self.broker.port))
        self.stack.callback(controller.disconnect_mqtt, flush=0)
        assert controller.connect_mqtt(60)
        return controller

    def observe(self, topic: str) -> tuple[MqttClient, list[bytes]]:
        """Follow a topic."""
        found: list[bytes] = []

        def note(message: Message) -> None:
            found.append(message.payload)

        client = self.stack.enter_context(MqttClient(broker_at(self.broker.port), on_message=note))
        client.connect(timeout=60)
        client.subscribe(Subscription(topic, qos=1))
        return client, found

    def versions(self, topic: str, found: list[bytes]) -> list[int]:
        """Return the versions of policy messages; 0 for an empty one."""
        return [self.codec.unwrap(one, topic).envelope.payload["version"] if one else 0 for one in list(found)]


@pytest.fixture
def plant(tmp_path: Path, broker: Mosquitto, topic: str) -> Iterator[Plant]:
    """A plant on a broker of the test."""
    with ExitStack() as stack:
        yield Plant(tmp_path, broker, topic, stack)


def test_an_erased_policy_is_published_again(plant: Plant) -> None:
    """An empty retained message needs no key."""
    high = plant.start(GlobalController, "gc-1")
    assert high.publish_policy_update({"level": 1})[1].wait(60)
    topic = high.topics.policy()
    attacker, found = plant.observe(topic)
    eventually(lambda: found)
    attacker.publish(topic, b"", qos=1, retain=True).wait(60)
    eventually(lambda: plant.versions(topic, found)[-2:] == [0, 1])


def test_an_older_policy_that_somebody_publishes_again_is_replaced(plant: Plant) -> None:
    """It is signed, so a newcomer would accept it."""
    high = plant.start(GlobalController, "gc-1")
    topic = high.topics.policy()
    attacker, found = plant.observe(topic)
    high.publish_policy_update({"level": 1})
    eventually(lambda: found)
    high.publish_policy_update({"level": 2})
    eventually(lambda: plant.versions(topic, found)[-1] == 2)
    before = len(found)
    attacker.publish(topic, found[0], qos=1, retain=True).wait(60)
    eventually(lambda: len(found) > before + 1)
    replaced = plant.versions(topic, found)[before:]
    assert (replaced[0], replaced[-1]) == (1, 2)


def test_a_broker_that_forgot_everything_gets_the_policy_again(plant: Plant) -> None:
    """After each reconnect, and after a fail-over."""
    regional = plant.start(RegionalController, "rc-1")
    regional.publish_policy_update({"scan": 30})[1].wait(60)
    plant.broker.stop()
    plant.broker.start()
    newcomer = plant.start(LocalController, "lc-1")
    newcomer.subscribe_to_policy_updates()
    eventually(lambda: newcomer.policy("zone-A"))
    assert newcomer.policy("zone-A").rules == {"scan": 30}  # type: ignore[union-attr]


def test_a_lost_state_file_does_not_restart_the_versions(plant: Plant) -> None:
    """The controller adopts the highest version that it sees and continues from there."""
    first = plant.start(GlobalController, "gc-1")
    for level in range(3):
        first.publish_policy_update({"level": level})[1].wait(60)
    first.disconnect_mqtt()
    local = plant.start(LocalController, "lc-1")
    local.subscribe_to_policy_updates()
    eventually(lambda: (policy := local.policy()) is not None and policy.version == 3)
    again = plant.start(GlobalController, "gc-1", state_file=str(plant.directory / "new.db"))
    again.publish_policy_update({"level": "new"})
    eventually(lambda: (policy := local.policy()) is not None and policy.rules == {"level": "new"})
    found = local.policy()
    assert found is not None and found.version > 3


def test_a_rotated_key_signs_the_retained_policy(plant: Plant) -> None:
    """Otherwise newcomers refuse it as soon as the old key is retired."""
    regional = plant.start(RegionalController, "rc-1", heartbeat_interval=0.2)
    regional.publish_policy_update({"a": 1})[1].wait(60)
    keys = KeyFile(make_keys(plant.directory))
    keys.update(lambda ring: ring.add(generate("k2")).activate("k2"))
    topic = regional.topics.policy("zone-A")

    def signed_by_the_new_key() -> bool:
        _, found = plant.observe(topic)
        eventually(lambda: found)
        opened = plant.codec.unwrap(found[0], topic)
        return opened.key is not None and opened.key.kid == "k2"

    eventually(signed_by_the_new_key)


def test_two_regional_controllers_of_one_region_notice_each_other(
    plant: Plant, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged and counted; they do not outbid each other."""
    one = plant.start(RegionalController, "rc-1")
    two = plant.start(RegionalController, "rc-2")
    one.publish_policy_update({"a": 1})[1].wait(60)
    eventually(lambda: two.status()["counters"].get("rival_policies") == 1)
    eventually(lambda: "rc-1 also publishes the policy of zone-A" in caplog.text)
    two.publish_policy_update({"a": 2})[1].wait(60)
    eventually(lambda: one.policy("zone-A") == two.policy("zone-A") != None)  # noqa: E711  both, and not None
    assert one.policy("zone-A").version == 2  # type: ignore[union-attr]


def test_reports_of_another_region_are_refused(plant: Plant) -> None:
    """A restored session may have subscriptions from before a change of region."""
    regional = plant.start(RegionalController, "rc-1")
    regional.subscribe_to_discovery_reports()
    regional._subscribe(regional.topics.discovery_filter("zone-B"))
    local = plant.start(LocalController, "lc-1", region="zone-B")
    local.publish_discovery_report({"devices": []}).wait(60)
    eventually(lambda: regional.status()["counters"].get("refused_wrong_region"))
    assert regional.report_count == 0


def test_a_restored_session_without_the_subscription_is_subscribed_again(plant: Plant) -> None:
    """The broker has the session, but not what the controller subscribes to."""
    regional = plant.start(RegionalController, "rc-1", keep_session=True)
    regional.subscribe_to_discovery_reports()
    assert regional.mqtt is not None
    client = regional.mqtt.client
    client._connection.unsubscribe(regional.topics.discovery_filter("zone-A"))
    before = regional.mqtt.connection
    client._connection.socket().shutdown(socket.SHUT_RDWR)
    eventually(lambda: regional.mqtt is not None and regional.mqtt.connection > before)
    assert client.session_present
    local = plant.start(LocalController, "lc-1")
    local.run_discovery_cycle(timeout=60)
    assert regional.wait_for_report("lc-1", timeout=60) is not None


def test_a_heartbeat_over_http_does_not_cause_the_next_one(tmp_path: Path) -> None:
    """Each answer wakes the controller; only a change of the transports is worth a heartbeat."""
    with ExitStack() as stack:
        served = settings_of(tmp_path, "rc-1", transports=("http",), http_listen="127.0.0.1:0")
        regional = RegionalController(served, broker_at(1), bus=MemoryBus())
        stack.callback(regional.disconnect_mqtt, flush=0)
        regional.connect_mqtt(0)
        hub = regional.transports[0]
        assert isinstance(hub, HttpHub)
        settings = settings_of(tmp_path, "lc-1", transports=("http",), http_url=hub.url, heartbeat_interval=60.0)
        local = LocalController(settings, broker_at(1))
        stack.callback(local.disconnect_mqtt, flush=0)
        sent: list[str] = []
        beat = local._heartbeat
        local._heartbeat = lambda state, *more: (sent.append(state), beat(state, *more))[1]  # type: ignore[method-assign]
        local.connect_mqtt(0)
        regional.subscribe_to_discovery_reports()
        for _ in range(20):
            local.publish_discovery_report({"devices": []}).wait(60)
        assert regional.report_count == 20
        assert len(sent) <= 3  # at the start, and when the hub became available


def test_a_denied_report_settles_and_becomes_a_dead_letter(tmp_path: Path) -> None:
    """The broker's access rules do not change by another try; the next message is not held up."""
    (tmp_path / "acl").write_text("topic readwrite pdsno/status/#\ntopic readwrite pdsno/events/#\n")
    with ExitStack() as stack:
        broker = stack.enter_context(mosquitto(tmp_path / "m", f"acl_file {tmp_path / 'acl'}"))
        local = LocalController(settings_of(tmp_path, "lc-1", keep_session=False), broker_at(broker.port))
        stack.callback(local.disconnect_mqtt, flush=0)
        assert local.connect_mqtt(60)
        denied = local.publish_discovery_report({"devices": []})
        assert denied.wait(60)
        assert not denied.ok
        event = local.publish_event("hello")
        assert event.wait(60)
        assert event.ok
        assert (local.status()["denied"], local.unsent) == (1, 0)
        ((topic, _, reason),) = local._store.dead_letters()
        assert (topic, reason.lower()) == ("pdsno/discovery/zone-A/lc-1", "not authorized")


def test_a_report_that_receivers_would_refuse_fails_at_the_sender(tmp_path: Path) -> None:
    """Too large, nested too deeply, or with a number that needs more than 64 bits."""
    settings = settings_of(tmp_path, "lc-1", transports=("memory",), max_message_bytes=2_000)
    deep: list[Any] = []
    for _ in range(40):
        deep = [deep]
    with LocalController(settings, broker_at(1), bus=MemoryBus()) as local:
        for devices in (["x" * 2_000], deep, [2**64]):
            promise = local.publish_discovery_report({"devices": devices})
            assert promise.wait(60)
            assert not promise.ok


def test_a_changed_region_ends_the_old_subscriptions(
    tmp_path: Path, broker: Mosquitto, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broker's session keeps them; reports of the old region would be taken by a controller that refuses them."""
    monkeypatch.setattr("mqttkit.controller.held_messages.HOLD_SECONDS", 0.2)
    mqtt = broker_at(broker.port)
    settings = settings_of(tmp_path, "rc-1", base=topic, heartbeat_interval=0.2)
    with RegionalController(settings, mqtt) as first:
        first.subscribe_to_discovery_reports()
        assert f"{topic}/discovery/zone-A/+" in first._store.subscriptions()
    with RegionalController(dataclasses.replace(settings, region="zone-B"), mqtt) as second:
        second.subscribe_to_discovery_reports()
        wanted = [f"{topic}/discovery/zone-B/+", f"{topic}/policy/zone-B", f"{topic}/requests/rc-1"]
        eventually(lambda: second._store.subscriptions() == wanted)
        with LocalController(settings_of(tmp_path, "lc-1", base=topic), mqtt) as local:
            report = local.publish_discovery_report({"devices": []})
            assert not local.flush(1.0)
            assert report.taken_by == ""  # MQTT 5: the broker says that no client subscribes
            local.disconnect_mqtt(flush=0)


def test_of_two_instances_the_older_one_stands_down_until_the_newer_one_leaves(plant: Plant) -> None:
    """They do not end each other's connections again and again; the older one continues by itself afterwards."""
    older = plant.start(RegionalController, "rc-1", heartbeat_interval=2.0)
    newer = plant.start(RegionalController, "rc-1", heartbeat_interval=2.0, state_file=str(plant.directory / "2.db"))
    eventually(lambda: older._standby is not None and older._standby.is_waiting)
    eventually(lambda: newer.mqtt is not None and newer.mqtt.available)
    assert newer.mqtt is not None and older.mqtt is not None
    connection = newer.mqtt.connection
    newer.subscribe_to_discovery_reports()
    local = plant.start(LocalController, "lc-1")
    for number in range(20):
        assert local.publish_discovery_report({"devices": [], "number": number}).wait(60)
    assert (newer.mqtt.connection, newer.report_count, older.mqtt.available) == (connection, 20, False)
    newer.disconnect_mqtt()
    older.subscribe_to_discovery_reports()
    eventually(lambda: older.mqtt is not None and older.mqtt.available)
    assert local.publish_discovery_report({"devices": []}).wait(60)
    assert older.report_count == 1


def test_an_instance_that_stood_down_ends_when_it_is_closed(plant: Plant) -> None:
    """No thread waits for the other instance any more."""
    older = plant.start(LocalController, "lc-1", heartbeat_interval=2.0)
    plant.start(LocalController, "lc-1", heartbeat_interval=2.0, state_file=str(plant.directory / "2.db"))
    eventually(lambda: older._standby is not None and older._standby.is_waiting)
    older.disconnect_mqtt(flush=0)
    assert older._standby is not None and not older._standby.is_waiting


def test_policies_at_qos_2_are_published_and_received_once(plant: Plant) -> None:
    """`policy_qos` 2: PUBREC, PUBREL, PUBCOMP, and an acknowledgement only after the commit."""
    high = plant.start(GlobalController, "gc-1", policy_qos=2)
    local = plant.start(LocalController, "lc-1", policy_qos=2)
    seen: list[int] = []
    local.subscribe_to_policy_updates(lambda policy: seen.append(policy.version))
    found: list[int] = []
    mqtt = broker_at(plant.broker.port)
    client = plant.stack.enter_context(MqttClient(mqtt, on_message=lambda message: found.append(message.qos)))
    client.connect(timeout=60)
    client.subscribe(Subscription(high.topics.policy(), qos=2))
    promise = high.publish_policy_update({"level": 1})[1]
    assert promise.wait(60) and promise.ok
    eventually(lambda: found == [2] and seen == [1])
    eventually(lambda: local.status()["applied"] == {"global": 1})
