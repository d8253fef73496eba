"""Aranet sensors; the only module that imports aranet4."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

from mqttkit.decode.reading import Decode, Reading, Value
from mqttkit.scanner.advertisement import Advertisement

log = logging.getLogger(__name__)

COMPANY = 0x0702

_VALUES = {
    "co2": ("carbon_dioxide", "ppm", "carbon_dioxide"),
    "temperature": ("temperature", "°C", "temperature"),
    "pressure": ("pressure", "hPa", "atmospheric_pressure"),
    "humidity": ("humidity", "%", "humidity"),
    "battery": ("battery", "%", "battery"),
    "radon_concentration": ("radon", "Bq/m³", None),
    "radiation_rate": ("radiation_rate", "nSv/h", None),
    "radiation_total": ("radiation_total", "nSv", None),
}
_NEEDS_INTEGRATION = "Smart Home integration, switched on in the Aranet app"


def open_parser() -> Decode | None:
    """Return the decoder; None if aranet4 is not installed."""
    try:
        from aranet4.client import Aranet4Advertisement
    except ImportError as error:
        log.debug("aranet4 is not installed: %s", error)
        return None

    def decode(advertisement: Advertisement) -> Reading | None:
        data = {company: fields[-1] for company, fields in advertisement.manufacturer_data.items()}
        device = SimpleNamespace(name=advertisement.local_name, address=advertisement.mac_address)
        found: Any = Aranet4Advertisement(device, SimpleNamespace(manufacturer_data=data, rssi=advertisement.rssi))
        if found.manufacturer_data is None:
            return None
        values = () if found.readings is None else _values(found.readings)
        needs = "" if found.manufacturer_data.integrations else _NEEDS_INTEGRATION
        return Reading("aranet", values, advertisement.local_name, manufacturer="SAF Tehnika", needs=needs)

    return decode


def _values(readings: Any) -> tuple[Value, ...]:
    """Return what the device measures: the library sets the other fields to -1."""
    found = ((named, getattr(readings, name, None)) for name, named in _VALUES.items())
    return tuple(
        Value(quantity, value, unit, device_class)
        for (quantity, unit, device_class), value in found
        if isinstance(value, int | float) and value != -1
    )
