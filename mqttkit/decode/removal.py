"""Removes devices from Home Assistant that have not been heard for a long time."""

from __future__ import annotations

import json
from dataclasses import dataclass

from mqttkit.client import MqttClient
from mqttkit.decode.discovery import object_id
from mqttkit.errors import AdvertisementError
from mqttkit.messages import Outcome
from mqttkit.scanner.advertisement import normalise_mac, parse_timestamp, printable
from mqttkit.settings import DecodeSettings

QUIET_SECONDS = 1.0
"""After so long without a message, all retained ones have arrived."""


@dataclass(frozen=True)
class Published:
    """A device with a retained state."""

    mac_address: str
    name: str
    """Without control characters."""
    last_seen: float
    """Seconds since 1970."""
    topics: tuple[str, ...]
    """Its retained messages: the discovery message, if there is one, and the state."""


def find_published(client: MqttClient, settings: DecodeSettings) -> list[Published]:
    """Return the devices with a retained state, the one silent for longest first."""
    filters = ["/".join("+" if "{" in level else level for level in settings.state.split("/"))]
    if settings.discovery:
        filters.append(f"{settings.prefix}/device/+/config")
    client.subscribe(*filters)
    configs, states = {}, {}
    for message in client.messages(timeout=QUIET_SECONDS):
        if not message.retain or not message.payload:
            continue
        if message.topic.endswith("/config"):
            configs[message.topic.split("/")[-2]] = message.topic
        else:
            states[message.topic] = message.payload
    found = [_published(topic, payload, configs) for topic, payload in states.items()]
    return sorted((device for device in found if device is not None), key=lambda device: device.last_seen)


def remove(client: MqttClient, devices: list[Published], timeout: float = 10.0) -> int:
    """Remove the retained messages of the devices; return how many the broker did not acknowledge."""
    receipts = [client.publish(topic, b"", qos=1, retain=True) for device in devices for topic in device.topics]
    return sum(receipt.wait(timeout) is not Outcome.ACKNOWLEDGED for receipt in receipts)


def _published(topic: str, payload: bytes, configs: dict[str, str]) -> Published | None:
    """Read a state; None if it is not one of ours."""
    try:
        fields = json.loads(payload)
        mac_address, name = normalise_mac(fields["mac_address"]), printable(fields["name"])
        last_seen = parse_timestamp(fields["last_seen"])
        config = configs.get(object_id(mac_address))
    except (ValueError, KeyError, TypeError, AttributeError, AdvertisementError, RecursionError):
        return None
    return Published(mac_address, name, last_seen, (topic,) if config is None else (config, topic))
