"""What the broker allows the users of the controllers' roles, and MQTT 3.1.1."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from mqttkit.broker.accounts.roles import AccountFiles
from mqttkit.broker.file_names import ACL_FILE, PASSWORD_FILE
from mqttkit.controller import GlobalController, LocalController, RegionalController
from tests.support.brokers import Mosquitto, mosquitto
from tests.support.controllers import broker_at, eventually, settings_of


def test_the_roles_of_the_broker_allow_what_controllers_do_and_no_more(tmp_path: Path) -> None:
    """Reports, receipts, policies, events and requests pass; a local controller cannot publish a policy."""
    files = AccountFiles.parse(b"", b"user mqttkit\ntopic readwrite #\n")
    for name, role in (("lc-1", "local"), ("rc-1", "regional"), ("gc-1", "global")):
        files = files.add(name, f"secret of {name}", role=f"controller-{role}", iterations=1)
    (tmp_path / PASSWORD_FILE).parent.mkdir(parents=True, exist_ok=True)
    for name, content in files.changed_from(AccountFiles()).items():
        (tmp_path / name).write_bytes(content)
        (tmp_path / name).chmod(0o644)
    lines = [f"password_file {tmp_path / PASSWORD_FILE}", f"acl_file {tmp_path / ACL_FILE}"]
    with ExitStack() as stack:
        broker = stack.enter_context(mosquitto(tmp_path / "m", *lines, anonymous=False))

        def start(kind: type[Any], name: str) -> Any:
            mqtt = broker_at(broker.port)
            mqtt = replace(mqtt, broker=replace(mqtt.broker, username=name, password=f"secret of {name}"))
            controller = kind(settings_of(tmp_path, name, keep_session=False), mqtt)
            stack.callback(controller.disconnect_mqtt, flush=0)
            assert controller.connect_mqtt(60)
            return controller

        high, regional = start(GlobalController, "gc-1"), start(RegionalController, "rc-1")
        regional.subscribe_to_discovery_reports()
        local = start(LocalController, "lc-1")
        local.subscribe_to_policy_updates()
        local.run_discovery_cycle(timeout=60)
        high.publish_policy_update({"a": 1})
        regional.publish_policy_update({"b": 1})
        eventually(lambda: local.status()["policies"] == {"global": 1, "zone-A": 1})
        assert regional.request("lc-1", "ping", timeout=60)["controller"] == "lc-1"
        heard: list[Any] = []
        high.subscribe_to_events(heard.append)
        local.publish_event("up")
        eventually(lambda: heard)
        denied = local._publish("policy.update", local.topics.policy(), {"version": 9}, retain=True)
        assert denied.wait(60) and not denied.ok
        assert denied.reason.lower() == "not authorized"


def test_mqtt_3_1_1_says_what_is_not_known(tmp_path: Path, broker: Mosquitto, topic: str) -> None:
    """The broker takes a report for which nobody subscribes, without a word."""
    mqtt = broker_at(broker.port)
    mqtt = replace(mqtt, client=replace(mqtt.client, version="311"))
    settings = settings_of(tmp_path, "lc-1", base=topic, keep_session=False)
    local = LocalController(settings, mqtt)
    try:
        assert local.connect_mqtt(60)
        promise = local.publish_discovery_report({"devices": []})
        eventually(lambda: promise.taken_by == "mqtt")
        assert local.status()["subscribers_unknown"] is True
        assert "on MQTT 3.1.1 the broker does not say whether any client subscribes" in local._why_not(promise, 1.0)
    finally:
        local.disconnect_mqtt(flush=0)
