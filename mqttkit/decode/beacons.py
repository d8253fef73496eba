"""iBeacon and Eddystone. Pure.

Formats: Apple, Proximity Beacon Specification R1; Google, Eddystone Protocol Specification.
"""

from __future__ import annotations

import uuid

from mqttkit.decode.reading import Reading, Value
from mqttkit.scanner.advertisement import Advertisement

APPLE = 0x004C
EDDYSTONE = "0000feaa-0000-1000-8000-00805f9b34fb"

_IBEACON = b"\x02\x15"
_IBEACON_LENGTH = 23
_UID, _URL, _TLM = 0x00, 0x10, 0x20
_SCHEMES = ("http://www.", "https://www.", "http://", "https://")
_ENDINGS = (".com/", ".org/", ".edu/", ".net/", ".info/", ".biz/", ".gov/")
_URL_BYTES = {
    **dict(enumerate(_ENDINGS)),
    **{number + len(_ENDINGS): ending.rstrip("/") for number, ending in enumerate(_ENDINGS)},
}
_NOT_SUPPORTED = -128.0
"""Temperature of a beacon without a sensor."""


def decode_ibeacon(advertisement: Advertisement) -> Reading | None:
    """Return UUID, major, minor and the power measured at 1 m."""
    for data in advertisement.manufacturer_data.get(APPLE, ()):
        if len(data) == _IBEACON_LENGTH and data.startswith(_IBEACON):
            values = (
                Value("uuid", str(uuid.UUID(bytes=data[2:18]))),
                Value("major", int.from_bytes(data[18:20], "big")),
                Value("minor", int.from_bytes(data[20:22], "big")),
                Value("measured_power", _signed(data[22:23]), "dBm", "signal_strength"),
            )
            return Reading("ibeacon", values, model="iBeacon")
    return None


def decode_eddystone(advertisement: Advertisement) -> Reading | None:
    """Return the values of a UID, URL or plain TLM frame."""
    data = advertisement.service_data.get(EDDYSTONE, b"")
    kind = data[0] if data else None
    if kind == _UID and len(data) >= 18:
        values = _uid(data)
    elif kind == _URL and len(data) >= 3 and data[2] < len(_SCHEMES):
        values = (_power(data), Value("url", _SCHEMES[data[2]] + "".join(map(_url_part, data[3:]))))
    elif kind == _TLM and len(data) >= 14 and data[1] == 0:
        values = tuple(_telemetry(data))
    else:
        return None
    return Reading("eddystone", values, model="Eddystone")


def _uid(data: bytes) -> tuple[Value, ...]:
    return _power(data), Value("namespace", data[2:12].hex()), Value("instance", data[12:18].hex())


def _telemetry(data: bytes) -> list[Value]:
    values = [
        Value("advertisements", int.from_bytes(data[6:10], "big")),
        Value("uptime", int.from_bytes(data[10:14], "big") / 10, "s", "duration"),
    ]
    if voltage := int.from_bytes(data[2:4], "big"):
        values.append(Value("voltage", voltage / 1000, "V", "voltage"))
    temperature = _signed(data[4:6]) / 256
    if temperature != _NOT_SUPPORTED:
        values.append(Value("temperature", round(temperature, 2), "°C", "temperature"))
    return values


def _power(data: bytes) -> Value:
    return Value("power_at_0_m", _signed(data[1:2]), "dBm", "signal_strength")


def _url_part(byte: int) -> str:
    """Return an expansion, or the character; a byte that no URL may have is percent-encoded."""
    return _URL_BYTES.get(byte) or (chr(byte) if 0x20 < byte < 0x7F else f"%{byte:02X}")


def _signed(data: bytes) -> int:
    return int.from_bytes(data, "big", signed=True)
