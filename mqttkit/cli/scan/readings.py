"""One line per reading."""

from __future__ import annotations

import json

from mqttkit.decode import Reading
from mqttkit.scanner import Advertisement
from mqttkit.scanner.advertisement import format_timestamp, printable


def text_line(heard: Advertisement, reading: Reading) -> str:
    """Return time, address, name and values."""
    name = printable(reading.name or reading.model or reading.decoder)
    return f"{format_timestamp(heard.timestamp)} {heard.mac_address}  {name}: {printable(str(reading))}"


def json_line(heard: Advertisement, reading: Reading) -> str:
    """Return a JSON object."""
    return json.dumps(
        {
            "timestamp": format_timestamp(heard.timestamp),
            "mac_address": heard.mac_address,
            "rssi": heard.rssi,
            "decoder": reading.decoder,
            "name": reading.name,
            "model": reading.model,
            "manufacturer": reading.manufacturer,
            "values": {value.quantity: value.value for value in reading.values},
            "units": {value.quantity: value.unit for value in reading.values if value.unit},
        }
    )
