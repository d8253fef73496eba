"""`mqttkit decode` with a real broker: advertisements in, states and discovery messages out."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from mqttkit.client import MqttClient
from mqttkit.decode import Decoders
from mqttkit.decode.beacons import EDDYSTONE
from mqttkit.decode.removal import find_published, remove
from mqttkit.decode.service import DecodeService, will_of
from mqttkit.messages import Message
from mqttkit.scan_publisher import format_advertisement
from mqttkit.scanner import Advertisement
from mqttkit.settings import DecodeSettings
from mqttkit.testing.broker import TestBroker
from tests.support.brokers import Mosquitto
from tests.support.clients import settings_for, wait_until

MAC = "AA:BB:CC:DD:EE:FF"


def payload(gateway: str, temperature: int, rssi: int = -60) -> bytes:
    """Return the message of a scan publisher that hears a beacon with a thermometer."""
    data = bytes([0x20, 0, 0, 0, temperature, 0, *bytes(8)])
    beacon = Advertisement(mac_address=MAC, timestamp=0, rssi=rssi, service_data={EDDYSTONE: data})
    return format_advertisement(beacon, gateway, 1)


class House:
    """A decode service and a client that sees what it publishes."""

    def __init__(self, broker: Mosquitto, topic: str, **fields: Any) -> None:
        self.settings = DecodeSettings(
            raw=f"{topic}/raw/#",
            state=f"{topic}/state/{{mac_address}}",
            status=f"{topic}/status",
            prefix=f"{topic}/ha",
            **fields,
        )
        self.topic = topic
        self.latest: dict[str, Any] = {}
        self.client = MqttClient(settings_for(broker.port), on_messages=self._note)
        self.decoder = MqttClient(settings_for(broker.port), will=will_of(self.settings))
        self.service = DecodeService(self.decoder, Decoders(), self.settings)

    def _note(self, messages: list[Message]) -> None:
        for message in messages:
            name = message.topic.removeprefix(f"{self.topic}/")
            self.latest[name] = message.payload.decode()

    def hear(self, gateway: str, temperature: int, rssi: int = -60) -> None:
        """Publish an advertisement."""
        self.client.publish(f"{self.topic}/raw/{gateway}/{MAC}", payload(gateway, temperature, rssi), qos=1).result(60)

    def state(self) -> dict[str, Any]:
        """Return the latest state of the device; empty if there is none."""
        return json.loads(self.latest.get(f"state/{MAC}") or "{}")  # type: ignore[no-any-return]


@contextlib.contextmanager
def house(broker: Mosquitto, topic: str, **fields: Any) -> Iterator[House]:
    """Run a decode service."""
    found = House(broker, topic, **fields)
    with found.client as client, found.decoder as decoder:
        client.connect(timeout=60)
        client.subscribe(f"{topic}/state/#", f"{topic}/status", f"{topic}/ha/#")
        decoder.connect(timeout=60)
        thread = threading.Thread(target=found.service.run)
        thread.start()
        try:
            wait_until(lambda: found.latest.get("status") == "online")
            yield found
        finally:
            found.service.stop()
            thread.join(60)
            assert not thread.is_alive()
        wait_until(lambda: found.latest.get("status") == "offline")


def test_values_presence_and_discovery_are_published(shared_broker: TestBroker, topic: str) -> None:
    """Each gateway's advertisement counts; the nearest one is named; silence means away."""
    with house(shared_broker, topic, away_after=4.0) as home:
        home.hear("hall", 20)
        wait_until(lambda: home.state().get("presence") == "home")
        assert home.state()["values"]["temperature"] == 20.0
        config = json.loads(home.latest["ha/device/mqttkit_aabbccddeeff/config"])
        assert config["state_topic"] == f"{topic}/state/{MAC}"
        assert config["availability"] == [{"topic": f"{topic}/status"}]
        home.hear("kitchen", 21, rssi=-40)
        wait_until(lambda: home.state()["gateway"] == "kitchen")
        assert home.state()["values"]["temperature"] == 21.0
        assert home.state()["packets"] == {"hall": 1, "kitchen": 1}
        wait_until(lambda: home.state()["presence"] == "away")


def test_the_status_of_the_gateways_is_the_availability(shared_broker: TestBroker, topic: str) -> None:
    """The discovery message names each gateway that heard the device."""
    with house(shared_broker, topic, gateway_status="gw/{scanner_id}") as home:
        home.hear("hall", 20)
        home.hear("attic", 21)
        wait_until(lambda: home.state().get("values", {}).get("temperature") == 21.0)
        config = json.loads(home.latest["ha/device/mqttkit_aabbccddeeff/config"])
        assert config["availability"] == [{"topic": "gw/attic"}, {"topic": "gw/hall"}]


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b'{"scanner_id": "x"', b'{"mac_address": 1, "scanner_id": "x"}'])
def test_a_message_that_is_no_advertisement_is_counted(shared_broker: TestBroker, topic: str, text: bytes) -> None:
    """The service continues."""
    with house(shared_broker, topic) as home:
        home.client.publish(f"{topic}/raw/x/y", text, qos=1).result(60)
        home.hear("hall", 20)
        wait_until(home.state)
        assert home.service.malformed == (1 if text else 0)


@pytest.mark.parametrize("gateway", ["#", "a/b", "", "a\0", "x" * 65])
def test_a_gateway_that_is_no_topic_level_is_malformed(shared_broker: TestBroker, topic: str, gateway: str) -> None:
    """Anyone who may publish can send one; it must not become an availability topic, nor end the service."""
    with house(shared_broker, topic, gateway_status=f"{topic}/{{scanner_id}}/status") as home:
        home.client.publish(f"{topic}/raw/x", payload(gateway, 20), qos=1).result(60)
        home.hear("hall", 21)
        wait_until(lambda: home.state().get("values", {}).get("temperature") == 21)
    assert home.service.malformed == 1
    assert home.state()["packets"] == {"hall": 1}


def test_a_broker_that_lost_its_memory_gets_everything_again(broker: Mosquitto, topic: str) -> None:
    """Status, discovery messages and states are asserted after each connection."""
    with house(broker, topic) as home:
        home.hear("hall", 20)
        wait_until(home.state)
        home.latest.clear()
        broker.stop()
        broker.start()
        wait_until(lambda: home.state().get("values"))
        wait_until(lambda: home.latest.get("status") == "online")
        wait_until(lambda: "ha/device/mqttkit_aabbccddeeff/config" in home.latest)


def test_silent_devices_are_found_and_removed(shared_broker: TestBroker, topic: str) -> None:
    """Both retained messages go; a foreign one on the same topics stays."""
    with house(shared_broker, topic) as home:
        home.hear("hall", 20)
        wait_until(home.state)
        foreign = {"mac_address": "\x1b[2J", "name": "x", "last_seen": "2026-01-11T10:30:45Z"}
        for number, text in enumerate(("x", "[" * 100_000, json.dumps(foreign), json.dumps({**foreign, "name": []}))):
            home.client.publish(f"{topic}/state/other-{number}", text, qos=1, retain=True).result(60)
        with MqttClient(settings_for(shared_broker.port)) as client:
            client.connect(timeout=60)
            (found,) = find_published(client, home.settings)
            assert (found.mac_address, len(found.topics)) == (MAC, 2)
            assert remove(client, [found]) == 0
        wait_until(lambda: home.latest[f"state/{MAC}"] == "")
        wait_until(lambda: home.latest["ha/device/mqttkit_aabbccddeeff/config"] == "")
        with MqttClient(settings_for(shared_broker.port)) as client:
            client.connect(timeout=60)
            assert find_published(client, home.settings) == []
