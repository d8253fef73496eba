"""Xiaomi thermometers with the firmware of ATC1441 or pvvx, in their two plain formats. Pure.

Formats: github.com/atc1441/ATC_MiThermometer and github.com/pvvx/ATC_MiThermometer, their section on advertising.
"""

from __future__ import annotations

import struct

from mqttkit.decode.reading import Reading, Value
from mqttkit.scanner.advertisement import Advertisement

SERVICE = "0000181a-0000-1000-8000-00805f9b34fb"

_ATC = struct.Struct(">6x h B B H x")
"""MAC address, tenths of a degree, humidity in %, battery in % and mV, packet counter."""
_PVVX = struct.Struct("<6x h H H B 2x")
"""MAC address, hundredths of a degree, hundredths of a percent, battery in mV and %, packet counter, flags."""
_ENCRYPTED = (8, 11)
"""Lengths of the two formats with a bind key."""


def decode_atc(advertisement: Advertisement) -> Reading | None:
    """Return temperature, humidity, battery and its voltage."""
    data = advertisement.service_data.get(SERVICE, b"")
    if len(data) == _ATC.size:
        temperature, humidity, battery, millivolts = _ATC.unpack(data)
        values = _values(temperature / 10, humidity, battery, millivolts)
    elif len(data) == _PVVX.size:
        temperature, humidity, millivolts, battery = _PVVX.unpack(data)
        values = _values(temperature / 100, humidity / 100, battery, millivolts)
    elif len(data) in _ENCRYPTED:
        return Reading("atc", (), model="ATC", needs="the firmware's format BTHome: this encrypted one is not decoded")
    else:
        return None
    return Reading("atc", values, advertisement.local_name, "ATC", "Xiaomi")


def _values(temperature: float, humidity: float, battery: int, millivolts: int) -> tuple[Value, ...]:
    return (
        Value("temperature", temperature, "°C", "temperature"),
        Value("humidity", humidity, "%", "humidity"),
        Value("battery", battery, "%", "battery"),
        Value("voltage", millivolts / 1000, "V", "voltage"),
    )
