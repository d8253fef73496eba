"""Device-based discovery messages of Home Assistant, and the state that they refer to. Pure.

See https://www.home-assistant.io/integrations/mqtt/#device-discovery-payload.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence

from mqttkit.decode.devices import DecodedDevice
from mqttkit.decode.reading import Value
from mqttkit.scanner.advertisement import format_timestamp

_TOTALS = {"energy", "water", "gas", "volume"}
_SENSOR_CLASSES = frozenset((
    "apparent_power", "aqi", "atmospheric_pressure", "battery", "carbon_dioxide", "carbon_monoxide", "conductivity",
    "current", "data_rate", "data_size", "distance", "duration", "energy", "energy_storage", "frequency", "gas",
    "humidity", "illuminance", "irradiance", "moisture", "nitrogen_dioxide", "nitrogen_monoxide", "nitrous_oxide",
    "ozone", "ph", "pm1", "pm10", "pm25", "power", "power_factor", "precipitation", "precipitation_intensity",
    "pressure", "reactive_power", "signal_strength", "sound_pressure", "speed", "sulphur_dioxide", "temperature",
    "volatile_organic_compounds", "volatile_organic_compounds_parts", "voltage", "volume", "volume_flow_rate",
    "volume_storage", "water", "weight", "wind_direction", "wind_speed",
))  # fmt: skip
"""Classes of sensors since Home Assistant 2024.11; it refuses an entity with another class."""
_OTHER_NAMES = {"mass": "weight", "dew_point": "temperature"}
"""Classes of the parsers that Home Assistant has under another name."""
_BINARY_CLASSES = {
    "battery",
    "battery_charging",
    "carbon_monoxide",
    "cold",
    "connectivity",
    "door",
    "garage_door",
    "gas",
    "heat",
    "light",
    "lock",
    "moisture",
    "motion",
    "moving",
    "occupancy",
    "opening",
    "plug",
    "power",
    "presence",
    "problem",
    "running",
    "safety",
    "smoke",
    "sound",
    "tamper",
    "update",
    "vibration",
    "window",
}


def object_id(mac_address: str) -> str:
    """Return the identifier of a device in topics and entities."""
    return f"mqttkit_{mac_address.replace(':', '').lower()}"


def config_topic(prefix: str, mac_address: str) -> str:
    """Return the topic of a device's discovery message."""
    return f"{prefix}/device/{object_id(mac_address)}/config"


def discovery(
    device: DecodedDevice, state_topic: str, availability: Sequence[str], expire_after: float
) -> dict[str, object]:
    """Return the discovery message. The entities are available while one of the status topics says `online`."""
    identifier = object_id(device.mac_address)
    about = {"name": device.name or device.mac_address, "manufacturer": device.manufacturer, "model": device.model}
    components: dict[str, object] = {
        f"{identifier}_{_identifier(value.quantity)}": _component(value, identifier, expire_after)
        for value in device.values.values()
    }
    components[f"{identifier}_presence"] = {
        "platform": "device_tracker",
        "unique_id": f"{identifier}_presence",
        "name": "Presence",
        "source_type": "bluetooth_le",
        "payload_home": "home",
        "payload_not_home": "away",
        "value_template": "{{ value_json.presence }}",
        "state_topic": state_topic,
    }
    return {
        "device": {
            "identifiers": [identifier],
            "connections": [["bluetooth", device.mac_address]],
            **{name: value for name, value in about.items() if value},
        },
        "origin": {"name": "mqttkit"},
        "components": components,
        "state_topic": state_topic,
        "availability": [{"topic": topic} for topic in availability],
        "availability_mode": "any",
    }


def _component(value: Value, identifier: str, expire_after: float) -> dict[str, object]:
    """Return the sensor or binary sensor of a value."""
    name = value.quantity.replace("_", " ").capitalize()
    template = f"value_json['values']['{_identifier(value.quantity)}']"
    component: dict[str, object] = {"unique_id": f"{identifier}_{_identifier(value.quantity)}", "name": name}
    component["expire_after"] = round(expire_after)
    if isinstance(value.value, bool):
        component |= {"platform": "binary_sensor", "value_template": "{{ 'ON' if " + template + " else 'OFF' }}"}
        if value.device_class in _BINARY_CLASSES:
            component["device_class"] = value.device_class
        return component
    component |= {"platform": "sensor", "value_template": "{{ " + template + " }}"}
    if value.unit:
        component["unit_of_measurement"] = value.unit
        device_class = _OTHER_NAMES.get(value.device_class or "", value.device_class)
        if device_class in _SENSOR_CLASSES:
            component["device_class"] = device_class
        if not isinstance(value.value, str):
            component["state_class"] = "total_increasing" if value.device_class in _TOTALS else "measurement"
    return component


def discovery_inputs(device: DecodedDevice) -> tuple[object, ...]:
    """Return all of a device that `discovery` depends on. It is quicker to compare than the message is to build."""
    kinds = [(name, value.unit, value.device_class, type(value.value)) for name, value in device.values.items()]
    return (device.name, device.manufacturer, device.model, kinds, list(device.gateways))


def state(device: DecodedDevice, last_seen: float) -> dict[str, object]:
    """Return the state message of a device; `last_seen` is in seconds since 1970."""
    nearest = device.gateways.get(device.nearest)
    return {
        "mac_address": device.mac_address,
        "name": device.name,
        "presence": "home" if device.home else "away",
        "gateway": device.nearest or None,
        "rssi": None if nearest is None else round(nearest.rssi),
        "last_seen": format_timestamp(last_seen),
        "packets": {name: heard.packets for name, heard in device.gateways.items()},
        "values": plain_values(device.values),
    }


def plain_values(values: Mapping[str, Value]) -> dict[str, object]:
    """Return the values under the names that the discovery message uses."""
    return {_identifier(quantity): value.value for quantity, value in values.items()}


@functools.lru_cache(maxsize=1_024)
def _identifier(quantity: str) -> str:
    """Return a quantity as Home Assistant accepts it in identifiers and templates."""
    return re.sub("[^a-zA-Z0-9_-]", "_", quantity)
