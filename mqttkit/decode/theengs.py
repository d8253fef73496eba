"""Theengs Decoder, which the user installs (GPL-3.0); the only module that imports it.

It knows many devices, and compares an advertisement with each of them: about a millisecond for one that it does not
know. So it is asked only on request, and last.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from mqttkit.decode.reading import Decode, Reading, Value
from mqttkit.decode.routes import short_uuid
from mqttkit.errors import MissingPart
from mqttkit.scanner.advertisement import Advertisement

_QUANTITIES = {
    "tempc": ("temperature", "°C", "temperature"),
    "hum": ("humidity", "%", "humidity"),
    "batt": ("battery", "%", "battery"),
    "volt": ("voltage", "V", "voltage"),
    "lux": ("illuminance", "lx", "illuminance"),
    "pres": ("pressure", "hPa", "atmospheric_pressure"),
    "moi": ("moisture", "%", "moisture"),
    "co2": ("carbon_dioxide", "ppm", "carbon_dioxide"),
    "weight": ("weight", None, None),
    "motion": ("motion", None, "motion"),
    "open": ("opening", None, "opening"),
}
"""mqttkit's names for the decoder's properties."""
_ENCRYPTED = "cipher"
_ABOUT = frozenset((
    "brand", "model", "model_id", "type", "cidc", "acts", "cont", "track", "prmac", "encr", "id", "name", "rssi", "mac",
    "device", "packet", "ctr", "mic", "cipher", "manufacturerdata", "servicedata", "servicedatauuid",
))  # fmt: skip
"""Properties that describe the device or the packet."""


def open_parser() -> Decode:
    """Return the decoder; raise MissingPart if Theengs Decoder is not installed."""
    try:
        from TheengsDecoder import decodeBLE
    except ImportError as error:
        hint = "Install it with: pip install TheengsDecoder"
        raise MissingPart("Theengs Decoder is not installed", hint=hint) from error

    def decode(advertisement: Advertisement) -> Reading | None:
        for fields in _inputs(advertisement):
            found = decodeBLE(json.dumps(fields))
            if found:
                return _reading(json.loads(found, strict=False), advertisement.local_name)
        return None

    return decode


def _inputs(advertisement: Advertisement) -> list[dict[str, Any]]:
    """Return the advertisement as the decoder takes it: one service at a time."""
    about: dict[str, Any] = {"id": advertisement.mac_address}
    if advertisement.local_name:
        about["name"] = advertisement.local_name
    for company, fields in advertisement.manufacturer_data.items():
        about["manufacturerdata"] = (company.to_bytes(2, "little") + fields[-1]).hex()
    services = [
        {**about, "servicedata": data.hex(), "servicedatauuid": f"0x{short_uuid(service)}"}
        for service, data in advertisement.service_data.items()
    ]
    return services or [about]


def _reading(found: dict[str, Any], name: str | None) -> Reading:
    needs = "a bind key" if _ENCRYPTED in found else ""
    values = () if needs else tuple(_values(found))
    return Reading("theengs", values, name, found.get("model"), found.get("brand"), needs)


def _values(found: dict[str, Any]) -> Iterator[Value]:
    for name, value in found.items():
        fahrenheit = name.startswith("tempf")  # the decoder gives each temperature twice
        if name in _ABOUT or fahrenheit or not isinstance(value, bool | int | float | str):
            continue
        quantity, unit, device_class = _QUANTITIES.get(name, (name, None, None))
        yield Value(quantity, value, unit, device_class)
