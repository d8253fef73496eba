"""Discovery and state messages for Home Assistant."""

from __future__ import annotations

from typing import Any, cast

import pytest

from mqttkit.decode.devices import DecodedDevice
from mqttkit.decode.discovery import config_topic, discovery, state
from mqttkit.decode.reading import Reading, Value

VALUES = (
    Value("temperature", 21.5, "°C", "temperature"),
    Value("energy", 3, "kWh", "energy"),
    Value("motion", True, None, "motion"),
    Value("button", "press"),
    Value("odd name", 1, None, "temperature"),
    Value("strange", False, None, "not a class"),
)


def device() -> DecodedDevice:
    """Return a device at home."""
    found = DecodedDevice("AA:BB:CC:DD:EE:FF", home=True)
    found.update(Reading("test", VALUES, name="Room", model="T1", manufacturer="Maker"))
    found.hear("hall", -60, 0.0)
    found.nearest = "hall"
    return found


def test_a_device_announces_itself_and_every_value() -> None:
    """One retained message per device, as documented for device discovery."""
    message = cast(dict[str, Any], discovery(device(), "ble/state/x", ["ble/decode/status"], 300.0))
    assert config_topic("homeassistant", "AA:BB:CC:DD:EE:FF") == "homeassistant/device/mqttkit_aabbccddeeff/config"
    assert message["device"] == {
        "identifiers": ["mqttkit_aabbccddeeff"],
        "connections": [["bluetooth", "AA:BB:CC:DD:EE:FF"]],
        "name": "Room",
        "manufacturer": "Maker",
        "model": "T1",
    }
    assert message["availability"] == [{"topic": "ble/decode/status"}]
    assert message["components"]["mqttkit_aabbccddeeff_temperature"] == {
        "platform": "sensor",
        "unique_id": "mqttkit_aabbccddeeff_temperature",
        "name": "Temperature",
        "expire_after": 300,
        "value_template": "{{ value_json['values']['temperature'] }}",
        "unit_of_measurement": "°C",
        "device_class": "temperature",
        "state_class": "measurement",
    }


def test_components_follow_the_rules_of_home_assistant() -> None:
    """A total increases; a bool is a binary sensor; a class that Home Assistant lacks is dropped."""
    components = cast(dict[str, dict[str, Any]], discovery(device(), "s", [], 300.0)["components"])
    by_name = {name.removeprefix("mqttkit_aabbccddeeff_"): fields for name, fields in components.items()}
    assert by_name["energy"]["state_class"] == "total_increasing"
    assert (by_name["motion"]["platform"], by_name["motion"]["device_class"]) == ("binary_sensor", "motion")
    assert by_name["motion"]["value_template"] == "{{ 'ON' if value_json['values']['motion'] else 'OFF' }}"
    assert "device_class" not in by_name["strange"]
    assert "unit_of_measurement" not in by_name["button"]
    assert "device_class" not in by_name["odd_name"]
    assert by_name["presence"]["platform"] == "device_tracker"
    assert len({fields["unique_id"] for fields in components.values()}) == len(VALUES) + 1


def test_the_state_has_what_the_templates_read() -> None:
    """Values, presence and the nearest gateway."""
    assert state(device(), 1.5) == {
        "mac_address": "AA:BB:CC:DD:EE:FF",
        "name": "Room",
        "presence": "home",
        "gateway": "hall",
        "rssi": -60,
        "last_seen": "1970-01-01T00:00:01.500Z",
        "packets": {"hall": 1},
        "values": {
            "temperature": 21.5,
            "energy": 3,
            "motion": True,
            "button": "press",
            "odd_name": 1,
            "strange": False,
        },
    }


def test_a_device_that_no_gateway_hears_has_no_rssi() -> None:
    """And no gateway."""
    silent = state(DecodedDevice("AA:BB:CC:DD:EE:FF"), 0.0)
    assert (silent["rssi"], silent["gateway"], silent["presence"]) == (None, None, "away")


@pytest.mark.parametrize(
    ("device_class", "expected"),
    [("temperature", "temperature"), ("mass", "weight"), ("dew_point", "temperature"), ("rotation", None)],
)
def test_a_class_is_one_of_home_assistant_s(device_class: str, expected: str | None) -> None:
    """It refuses a sensor with another one: the parsers have more classes than it has."""
    known = DecodedDevice("AA:BB:CC:DD:EE:FF", values={"odd": Value("odd", 1, "x", device_class)})
    components = discovery(known, "state", ["status"], 300.0)["components"]
    assert isinstance(components, dict)
    assert components["mqttkit_aabbccddeeff_odd"].get("device_class") == expected
