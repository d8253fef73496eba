"""SwitchBot devices; the only module that imports PySwitchbot."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

from mqttkit.decode.reading import Decode, Reading, Value
from mqttkit.scanner.advertisement import Advertisement

log = logging.getLogger(__name__)

SERVICES = frozenset({"fd3d", "0d00", "cba20d00-224d-11e6-9fb8-0002a5d5c51b"})
COMPANIES = frozenset({0x0969, 0x0059})

_UNITS = {
    "temperature": ("°C", "temperature"),
    "humidity": ("%", "humidity"),
    "battery": ("%", "battery"),
    "co2": ("ppm", "carbon_dioxide"),
    "power": ("W", "power"),
    "voltage": ("V", "voltage"),
}
_CLASSES = {"motion_detected": "motion", "contact_open": "opening", "leak": "moisture"}


def open_parser() -> Decode | None:
    """Return the decoder; None if PySwitchbot is not installed."""
    try:
        from switchbot.adv_parser import parse_advertisement_data
    except ImportError as error:
        log.debug("PySwitchbot is not installed: %s", error)
        return None
    logging.getLogger("switchbot").setLevel(logging.CRITICAL)

    def decode(advertisement: Advertisement) -> Reading | None:
        data = SimpleNamespace(
            service_data=advertisement.service_data,
            manufacturer_data={company: fields[-1] for company, fields in advertisement.manufacturer_data.items()},
            rssi=advertisement.rssi,
        )
        parsed: Any = parse_advertisement_data(SimpleNamespace(address=advertisement.mac_address), data)
        values = _values(parsed.data["data"]) if parsed is not None else ()
        if not values:
            return None
        return Reading("switchbot", values, model=parsed.data.get("modelFriendlyName"), manufacturer="SwitchBot")

    return decode


def _values(fields: dict[str, Any]) -> tuple[Value, ...]:
    """Return the plain values."""
    return tuple(
        Value(name, value, unit, device_class)
        for name, value in fields.items()
        if isinstance(value, bool | int | float | str)
        for unit, device_class in (_UNITS.get(name, (None, _CLASSES.get(name))),)
    )
