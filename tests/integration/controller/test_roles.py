"""Local, regional and global controllers over a real broker."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar

import pytest

from mqttkit.client import MqttClient
from mqttkit.controller import Envelope, GlobalController, LocalController, Policy, RegionalController, Report
from mqttkit.controller.controller import Controller
from mqttkit.controller.messages.refusals import MessageRefused
from mqttkit.controller.security.gate import SignedCodec
from mqttkit.controller.security.keys import KeyFile, generate
from mqttkit.errors import BrokerUnreachable, PublishFailed
from mqttkit.messages import Message, Subscription
from mqttkit.settings import MqttSettings
from tests.support.brokers import Mosquitto
from tests.support.controllers import broker_at, eventually, make_keys, settings_of

Kind = TypeVar("Kind", bound=Controller)


class Fleet:
    """Starts controllers of one test, and ends them."""

    def __init__(self, directory: Path, port: int, base: str, stack: ExitStack) -> None:
        self.directory, self.mqtt, self.base, self.stack = directory, broker_at(port), base, stack

    def start(self, kind: type[Kind], controller_id: str, *, mqtt: MqttSettings | None = None, **changes: Any) -> Kind:
        """Connect a controller."""
        settings = settings_of(self.directory, controller_id, base=self.base, **changes)
        controller = kind(settings, mqtt or self.mqtt)
        self.stack.callback(controller.disconnect_mqtt)
        assert controller.connect_mqtt(60)
        return controller

    def codec(self) -> SignedCodec:
        """The codec of everybody here."""
        return SignedCodec(KeyFile(make_keys(self.directory)))


@pytest.fixture
def fleet(tmp_path: Path, broker: Mosquitto, topic: str) -> Iterator[Fleet]:
    """A fleet on the test's broker, beneath the test's own topic."""
    with ExitStack() as stack:
        yield Fleet(tmp_path, broker.port, topic, stack)


def test_a_report_reaches_the_regional_controller_once(fleet: Fleet) -> None:
    """As it was found, without either knowing the other's address."""
    seen: list[Report] = []
    regional = fleet.start(RegionalController, "rc-1")
    regional.subscribe_to_discovery_reports(seen.append)
    local = fleet.start(LocalController, "lc-1")
    sent = [local.run_discovery_cycle(seed=number, timeout=60) for number in range(5)]
    eventually(lambda: regional.status()["counters"] == {"received": 5, "handled": 5})
    assert [report.payload for report in sorted(seen, key=lambda one: one.sequence)] == sent
    assert regional.reports["lc-1"].payload == sent[-1]
    assert local.status()["sent"] == {"mqtt": 5}


def test_reports_of_another_region_do_not_come(fleet: Fleet) -> None:
    """`discovery/{region}/+` is the region's fleet."""
    regional = fleet.start(RegionalController, "rc-1")
    regional.subscribe_to_discovery_reports()
    elsewhere = fleet.start(LocalController, "lc-9", region="zone-B")
    here = fleet.start(LocalController, "lc-1")
    ignored = elsewhere.publish_discovery_report({"devices": []})
    here.run_discovery_cycle(timeout=60)
    assert regional.wait_for_report("lc-1", timeout=60) is not None
    assert list(regional.reports) == ["lc-1"]
    assert not ignored.done  # a broker of MQTT 5 tells that nobody subscribes
    elsewhere.disconnect_mqtt(flush=0)


def test_a_newcomer_gets_the_latest_policies(fleet: Fleet) -> None:
    """Retained: everybody's and the region's, each at its newest version."""
    high = fleet.start(GlobalController, "gc-1")
    regional = fleet.start(RegionalController, "rc-1")
    for level in (1, 2, 3):
        _, promise = high.publish_policy_update({"level": level})
        promise.wait(60)
    regional.publish_policy_update({"scan_seconds": 30})[1].wait(60)
    seen: list[Policy] = []
    local = fleet.start(LocalController, "lc-1")
    local.subscribe_to_policy_updates(seen.append)
    eventually(lambda: len(seen) == 2)
    assert {policy.scope: (policy.version, policy.rules) for policy in seen} == {
        "global": (3, {"level": 3}),
        "zone-A": (1, {"scan_seconds": 30}),
    }
    eventually(lambda: local.status()["policies"] == {"global": 3, "zone-A": 1})


def test_policy_versions_go_on_after_a_restart(fleet: Fleet) -> None:
    """And an older one that comes late changes nothing."""
    local = fleet.start(LocalController, "lc-1")
    local.subscribe_to_policy_updates()
    versions = []
    for life in range(2):
        high = fleet.start(GlobalController, "gc-1")
        policy, promise = high.publish_policy_update({"life": life})
        promise.wait(60)
        versions.append(policy.version)
        high.disconnect_mqtt()
    eventually(lambda: (found := local.policy()) is not None and found.rules == {"life": 1})
    assert versions[0] < versions[1]


def test_events_reach_everybody_who_asked(fleet: Fleet) -> None:
    """`events/system` and `events/{region}`; a handler may publish."""
    heard: list[Envelope] = []
    high = fleet.start(GlobalController, "gc-1")
    high.subscribe_to_events(heard.append)
    regional = fleet.start(RegionalController, "rc-1")
    regional.subscribe_to_events(lambda event: _pass_on(regional, event), scope="zone-A")
    local = fleet.start(LocalController, "lc-1")
    local.publish_event("link_down", {"port": 7}, scope="zone-A")
    eventually(lambda: len(heard) == 1)
    assert (heard[0].sender_id, heard[0].payload) == ("rc-1", {"event": "link_down", "data": {"port": 7}})


def _pass_on(controller: Controller, event: Envelope) -> None:
    controller.publish_event(event.payload["event"], event.payload["data"])


def statuses(fleet: Fleet) -> tuple[MqttClient, dict[str, str]]:
    """Follow the status topics of a fleet: state by controller."""
    found: dict[str, str] = {}
    codec = fleet.codec()

    def note(message: Message) -> None:
        envelope = codec.unwrap(message.payload, message.topic).envelope
        found[envelope.sender_id] = envelope.payload["state"]

    client = fleet.stack.enter_context(MqttClient(fleet.mqtt, on_message=note))
    client.connect(timeout=60)
    client.subscribe(Subscription(f"{fleet.base}/status/+"))
    return client, found


def test_heartbeats_are_retained_and_end_with_offline(fleet: Fleet) -> None:
    """Online while it lives, offline when it leaves, also for those who look later."""
    local = fleet.start(LocalController, "lc-1")
    _, early = statuses(fleet)
    eventually(lambda: early.get("lc-1") == "online")
    local.disconnect_mqtt()
    eventually(lambda: early.get("lc-1") == "offline")
    _, late = statuses(fleet)
    eventually(lambda: late.get("lc-1") == "offline")
    assert late == {"lc-1": "offline"}


def test_a_controller_that_vanishes_is_offline_by_its_will(fleet: Fleet, broker: Mosquitto) -> None:
    """The broker says it, signed by the controller beforehand."""
    local = fleet.start(LocalController, "lc-1")
    _, found = statuses(fleet)
    eventually(lambda: found.get("lc-1") == "online")
    local._heartbeats.stopping.set()  # no heartbeat after the fall
    local._heartbeats.due.set()
    local._heartbeats.thread.join(60)
    taker = fleet.stack.enter_context(MqttClient(_as_client(fleet.mqtt, "lc-1")))
    taker.connect(timeout=60)  # a take-over ends the connection without DISCONNECT
    eventually(lambda: found.get("lc-1") == "offline")
    assert found == {"lc-1": "offline"}


def _as_client(mqtt: MqttSettings, client_id: str) -> MqttSettings:
    from dataclasses import replace

    return replace(mqtt, client=replace(mqtt.client, client_id=client_id))


def test_a_new_client_id_misses_no_report(fleet: Fleet) -> None:
    """`update_mqtt_client_id` under traffic: each report once, status under the new name."""
    seen: list[int] = []
    regional = fleet.start(RegionalController, "temporary-1")
    regional.subscribe_to_discovery_reports(lambda report: seen.append(report.payload["number"]))
    local = fleet.start(LocalController, "lc-1")
    promises = [local.publish_discovery_report({"devices": [], "number": number}) for number in range(100)]
    regional.update_mqtt_client_id("regional-zone-A-1")
    promises += [local.publish_discovery_report({"devices": [], "number": number}) for number in range(100, 200)]
    for promise in promises:
        promise.wait(60)
    eventually(lambda: len(seen) >= 200)
    assert sorted(seen) == list(range(200))
    assert "refused" not in regional.status()["counters"]
    assert regional.mqtt is not None
    assert regional.mqtt.client.client_id == "regional-zone-A-1"
    _, found = statuses(fleet)
    eventually(lambda: found == {"regional-zone-A-1": "online", "temporary-1": "offline", "lc-1": "online"})


def test_a_handler_that_raises_is_retried_then_the_message_is_a_dead_letter(fleet: Fleet) -> None:
    """And the next message is handled: neither thread dies."""
    calls: list[int] = []

    def handler(report: Report) -> None:
        number = report.payload["number"]
        calls.append(number)
        if number == 1 or (number == 2 and calls.count(2) < 3):
            raise RuntimeError("cannot")

    regional = fleet.start(RegionalController, "rc-1", handler_retries=2)
    regional.subscribe_to_discovery_reports(handler)
    local = fleet.start(LocalController, "lc-1")
    for number in (1, 2, 3):
        local.publish_discovery_report({"devices": [], "number": number}).wait(60)
    eventually(lambda: regional.status()["counters"].get("handled") == 2)
    counters = regional.status()["counters"]
    assert (counters["received"], counters["dead_lettered"], counters["handler_errors"]) == (3, 1, 5)
    assert [calls.count(number) for number in (1, 2, 3)] == [3, 3, 1]
    ((where, data, reason),) = regional._store.dead_letters()
    assert (where, reason) == (f"{fleet.base}/discovery/zone-A/lc-1", "RuntimeError: cannot")
    assert fleet.codec().unwrap(data, where).envelope.payload["number"] == 1


def test_bad_input_is_refused_counted_and_disturbs_nothing(fleet: Fleet, tmp_path: Path) -> None:
    """Each kind with its own reason, between good reports."""
    regional = fleet.start(RegionalController, "rc-1", max_message_bytes=20_000)
    regional.subscribe_to_discovery_reports()
    local = fleet.start(LocalController, "lc-1")
    local.run_discovery_cycle(seed=1, timeout=60)
    where = f"{fleet.base}/discovery/zone-A/lc-1"
    codec = fleet.codec()
    good = codec.wrap(local._envelope("discovery.report", {"devices": []}), where)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    other = SignedCodec(KeyFile(make_keys(elsewhere)))
    stranger = SignedCodec(KeyFile(make_keys(elsewhere)).ring.add(generate("k2")).activate("k2"))
    envelope = local._envelope("discovery.report", {"devices": []})
    bad = {
        "bad_signature": other.wrap(envelope, where),
        "unknown_key": stranger.wrap(envelope, where),
        "malformed": b"{}",
        "too_large": b"x" * 20_001,
        "wrong_topic": codec.wrap(envelope, f"{fleet.base}/discovery/zone-A/lc-2"),
        "unknown_type": codec.wrap(local._envelope("gossip", {}), where),
        "wrong_region": codec.wrap(local._envelope("discovery.report", {"devices": []}, region="zone-B"), where),
        "unknown_version": codec.wrap(_versioned(envelope, 2), where),
    }
    client = fleet.stack.enter_context(MqttClient(fleet.mqtt))
    client.connect(timeout=60)
    for data in (*bad.values(), good, good):
        client.publish(where, data, qos=1).wait(60)
    last = local.run_discovery_cycle(seed=2, timeout=60)
    eventually(lambda: regional.status()["counters"].get("handled") == 3)
    assert regional.reports["lc-1"].payload == last
    counters = regional.status()["counters"]
    for reason in (*bad, "replayed"):
        assert counters[f"refused_{reason}"] == 1, reason
    assert (counters["handled"], counters["refused"], counters["received"]) == (3, 9, 12)


def test_a_report_without_devices_is_refused_not_retried(fleet: Fleet) -> None:
    """By the sender, and by a receiver whose sender does not check."""
    regional = fleet.start(RegionalController, "rc-1")
    regional.subscribe_to_discovery_reports()
    local = fleet.start(LocalController, "lc-1")
    with pytest.raises(MessageRefused, match="no list of devices"):
        local.publish_discovery_report({"devices": "none"})
    topic = local.topics.discovery("zone-A", "lc-1")
    local._publish("discovery.report", topic, {"devices": "none"}).wait(60)
    eventually(lambda: "refused_malformed" in regional.status()["counters"])
    assert regional.status()["counters"] == {"received": 1, "refused": 1, "refused_malformed": 1}


def test_a_change_of_client_id_that_fails_changes_nothing(fleet: Fleet, broker: Mosquitto) -> None:
    """Without a broker: the error says why, and the controller goes on under its former name."""
    regional = fleet.start(RegionalController, "rc-1")
    regional.subscribe_to_discovery_reports()
    broker.stop()
    with pytest.raises(BrokerUnreachable):
        regional.update_mqtt_client_id("rc-2")
    assert regional.controller_id == "rc-1"
    broker.start()
    assert regional.mqtt is not None and regional.mqtt.client.client_id == "rc-1"
    local = fleet.start(LocalController, "lc-1")
    local.run_discovery_cycle(timeout=60)
    assert regional.wait_for_report("lc-1", timeout=60) is not None


def test_a_broker_that_does_not_answer_yet_is_waited_for(fleet: Fleet, broker: Mosquitto) -> None:
    """`connect_mqtt` says False and the controller goes on trying; subscriptions are made when it is there."""
    broker.stop()
    settings = settings_of(fleet.directory, "rc-1", base=fleet.base)
    regional = RegionalController(settings, fleet.mqtt)
    fleet.stack.callback(regional.disconnect_mqtt)
    assert not regional.connect_mqtt(0.2)
    regional.subscribe_to_discovery_reports()
    broker.start()
    local = fleet.start(LocalController, "lc-1")
    local.run_discovery_cycle(timeout=60)
    assert regional.wait_for_report("lc-1", timeout=60) is not None


def test_a_cycle_whose_report_nobody_takes_raises(fleet: Fleet) -> None:
    """PublishFailed, after its time-out."""
    local = fleet.start(LocalController, "lc-1")
    with pytest.raises(PublishFailed, match="no transport accepted"):
        local.run_discovery_cycle(timeout=0.5)
    local.disconnect_mqtt(flush=0)


def _versioned(envelope: Envelope, version: int) -> Envelope:
    from dataclasses import replace

    return replace(envelope, schema_version=version)


def test_keys_rotate_under_traffic_with_nothing_refused(fleet: Fleet) -> None:
    """Added, activated, retired while reports flow; who runs notices by itself."""
    regional = fleet.start(RegionalController, "rc-1")
    regional.subscribe_to_discovery_reports()
    local = fleet.start(LocalController, "lc-1")
    keys = KeyFile(make_keys(fleet.directory))
    signers = set()

    def send(count: int) -> None:
        for _ in range(count):
            local.publish_discovery_report({"devices": []})
        assert local.flush(60)
        signers.add(keys.ring.signer().kid)

    send(100)
    keys.save(keys.ring.add(generate("k2")))
    send(100)
    keys.save(keys.ring.activate("k2"))
    send(100)
    eventually(lambda: regional.report_count == 300)
    codec = local._codec
    assert isinstance(codec, SignedCodec)
    eventually(lambda: codec.keys.ring.signer().kid == "k2" if isinstance(codec.keys, KeyFile) else False)
    keys.save(keys.ring.retire("k1"))
    send(100)
    eventually(lambda: regional.report_count == 400)
    assert "refused" not in regional.status()["counters"]
    assert signers == {"k1", "k2"}


def test_a_persistent_session_keeps_reports_while_the_controller_is_away(fleet: Fleet) -> None:
    """Stopped and started again: what came meanwhile is handled, what was handled before is not."""
    first = fleet.start(RegionalController, "rc-1")
    first.subscribe_to_discovery_reports()
    local = fleet.start(LocalController, "lc-1")
    for number in range(10):
        local.publish_discovery_report({"devices": [], "number": number}).wait(60)
    eventually(lambda: first.report_count == 10)
    first.disconnect_mqtt()
    late = [local.publish_discovery_report({"devices": [], "number": number}) for number in range(10, 20)]
    eventually(lambda: all(promise.taken_by == "mqtt" and not promise.done for promise in late))
    second = fleet.start(RegionalController, "rc-1")
    second.subscribe_to_discovery_reports()
    eventually(lambda: second.report_count == 10 and all(promise.ok for promise in late))
    assert second.reports["lc-1"].payload["number"] == 19


def test_what_waited_longer_than_the_clock_skew_is_still_taken(fleet: Fleet, broker: Mosquitto) -> None:
    """At its sender, which signs when it sends; and in the broker's session while the receiver was away."""
    first = fleet.start(RegionalController, "rc-1", clock_skew=2.0, heartbeat_interval=0.2)
    first.subscribe_to_discovery_reports()
    local = fleet.start(LocalController, "lc-1")
    local.publish_discovery_report({"devices": [], "number": 0}).wait(60)
    eventually(lambda: first.report_count == 1)
    first.disconnect_mqtt()
    kept = local.publish_discovery_report({"devices": [], "number": 1})
    eventually(lambda: kept.taken_by == "mqtt")
    away = time.monotonic()
    eventually(lambda: time.monotonic() - away > 2.5)
    second = fleet.start(RegionalController, "rc-1", clock_skew=2.0)
    second.subscribe_to_discovery_reports()
    eventually(lambda: second.report_count == 1)
    broker.stop()
    eventually(lambda: local.mqtt is not None and not local.mqtt.available)
    waiting = local.publish_discovery_report({"devices": [], "number": 2})
    away = time.monotonic()
    eventually(lambda: time.monotonic() - away > 2.5)
    broker.start()
    assert waiting.wait(60) and waiting.ok
    eventually(lambda: second.report_count == 2)
    assert "refused" not in second.status()["counters"]


def test_mosquitto_pub_sees_plain_text_on_the_wire(fleet: Fleet, broker: Mosquitto) -> None:
    """What travels unsigned is the documented JSON."""
    local = fleet.start(LocalController, "lc-1", unsigned=True)
    local.publish_event("hello").wait(60)
    ran = subprocess.run(
        ["mosquitto_sub", "-p", str(broker.port), "-t", f"{fleet.base}/status/lc-1", "-C", "1", "-W", "60"],
        capture_output=True,
        check=True,
    )
    document = json.loads(ran.stdout)
    assert (document["message_type"], document["payload"]["state"]) == ("status", "online")
