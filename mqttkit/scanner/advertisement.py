"""One advertisement, the parsing of its AD structures, and its JSON form. Pure."""

from __future__ import annotations

import datetime
import functools
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mqttkit.errors import AdvertisementError

_BASE_UUID = "-0000-1000-8000-00805f9b34fb"
_MAC = re.compile(r"(?:[0-9A-F]{2}:){5}[0-9A-F]{2}")
_UUID = re.compile("[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}")
_SURROGATE = re.compile("[\ud800-\udfff]")
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
_ADDRESS_TYPES = ("public", "random")

RSSI_UNKNOWN = 127
"""The value for an unknown RSSI (Bluetooth Core 5.4, Vol 4, Part E, 7.7.65.2); -128 is reserved."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Advertisement:
    """One advertisement as a scanner received it (Bluetooth Core 5.4, Vol 6, Part B, 2.3.1)."""

    mac_address: str
    """`AA:BB:CC:DD:EE:FF`, upper case."""
    address_type: str = "public"
    """`public` or `random`."""
    rssi: int | None = None
    """Received signal strength, dBm; None if the radio does not report it (127 over the air)."""
    timestamp: float
    """Time of reception: seconds since 1970-01-01 UTC."""
    local_name: str | None = None
    """Complete or shortened local name, without padding of NUL; invalid UTF-8 becomes U+FFFD. It may contain
    control characters: see `printable`."""
    manufacturer_data: dict[int, tuple[bytes, ...]] = field(default_factory=dict)
    """Company identifier to its fields without the identifier, in the order of the advertisement."""
    service_data: dict[str, bytes] = field(default_factory=dict)
    """128-bit service UUID, lower case, to its data."""
    service_uuids: tuple[str, ...] = ()
    """128-bit, lower case, in the order of the advertisement."""
    tx_power: int | None = None
    """Transmit power level, dBm."""
    connectable: bool | None = None
    """None if the source does not report it."""
    raw: bytes | None = None
    """The AD structures as sent over the air; None if the source does not provide them."""
    alias: str | None = None
    """Name from the file of identities; None if the device is not in it."""
    adapter: str | None = None
    """The adapter that received it, such as hci1; None if the user named none."""

    @classmethod
    def from_raw(
        cls,
        raw: bytes,
        *,
        mac_address: str,
        timestamp: float,
        address_type: str = "public",
        rssi: int | None = None,
        connectable: bool | None = None,
        adapter: str | None = None,
    ) -> Advertisement:
        """Parse the AD structures `raw`. `mac_address` must be in normal form; an `rssi` of 127 means unknown."""
        return cls(
            mac_address=mac_address,
            address_type=address_type,
            rssi=None if rssi in (RSSI_UNKNOWN, -128) else rssi,
            timestamp=timestamp,
            connectable=connectable,
            raw=raw,
            adapter=adapter,
            **_interpret(raw),
        )

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object that `from_json` reads; unknown values are missing."""
        last, earlier = manufacturer_fields(self)
        fields = {
            "mac_address": self.mac_address,
            "addr_type": self.address_type,
            "rssi": self.rssi,
            "timestamp": format_timestamp(self.timestamp),
            "local_name": self.local_name,
            "manufacturer_data": last,
            "manufacturer_data_earlier": earlier or None,
            "service_data": {service: data.hex() for service, data in self.service_data.items()},
            "service_uuids": list(self.service_uuids),
            "tx_power": self.tx_power,
            "connectable": self.connectable,
            "raw_ad": None if self.raw is None else self.raw.hex(),
            "alias": self.alias,
            "adapter": self.adapter,
        }
        return {name: value for name, value in fields.items() if value is not None}

    @classmethod
    def from_json(cls, fields: object, *, timestamp: float = 0.0) -> Advertisement:
        """Read the form of `to_json`, ignoring unknown names; raise AdvertisementError.

        `raw_ad` takes precedence over the parsed fields. Without `mac_address` the advertisement gets a random
        static address that depends on `device` or on the other fields. Without `timestamp` it gets the argument.
        """
        if not isinstance(fields, Mapping):
            raise AdvertisementError(f"expected a JSON object, got {_shorten(fields)}")
        reader = _Reader(fields)
        mac_address = reader.text("mac_address")
        address_type = reader.choice("addr_type", _ADDRESS_TYPES) or reader.choice("address_type", _ADDRESS_TYPES)
        raw = reader.data("raw_ad")
        return cls(
            mac_address=normalise_mac(mac_address) if mac_address else _derived_address(fields),
            address_type=address_type or ("public" if mac_address else "random"),
            rssi=reader.number("rssi", -127, 126, RSSI_UNKNOWN),
            timestamp=reader.timestamp(timestamp),
            connectable=reader.boolean("connectable"),
            raw=raw,
            alias=reader.text("alias"),
            adapter=reader.text("adapter"),
            **(reader.parts() if raw is None else _interpret(raw)),
        )


def parse_ad_structures(raw: bytes) -> list[tuple[int, bytes]]:
    """Split `raw` into (AD type, data), in order (Bluetooth Core 5.4, Vol 3, Part C, 11).

    A length of zero ends the list. A truncated structure is ignored.
    """
    structures = []
    position, end = 0, len(raw)
    while position < end:
        length = raw[position]
        following = position + 1 + length
        if length == 0 or following > end:
            break
        structures.append((raw[position + 1], raw[position + 2 : following]))
        position = following
    return structures


def _interpret(raw: bytes) -> dict[str, Any]:
    """Return the fields of an Advertisement from its AD structures (Core Supplement 11, Part A)."""
    manufacturer: dict[int, tuple[bytes, ...]] = {}
    service_data: dict[str, bytes] = {}
    services: dict[str, None] = {}
    names: dict[int, bytes] = {}
    tx_power = None
    for kind, data in parse_ad_structures(raw):
        if kind == 0xFF and len(data) >= 2:
            company = data[0] | data[1] << 8
            manufacturer[company] = (*manufacturer.get(company, ()), data[2:])
        elif kind in _SERVICE_DATA_WIDTH and len(data) >= _SERVICE_DATA_WIDTH[kind]:
            width = _SERVICE_DATA_WIDTH[kind]
            service_data[expand_uuid(data[:width])] = data[width:]
        elif kind in _UUID_LIST_WIDTH:
            width = _UUID_LIST_WIDTH[kind]
            for start in range(0, len(data) - width + 1, width):
                services[expand_uuid(data[start : start + width])] = None
        elif kind in (0x08, 0x09):
            names.setdefault(kind, data)
        elif kind == 0x0A and data:
            level = int.from_bytes(data[:1], "little", signed=True)
            tx_power = level if level != -128 else None  # reserved (Core Supplement 11, Part A, 1.5)
    name = names.get(0x09, names.get(0x08))
    return {
        "local_name": None if name is None else name.rstrip(b"\0").decode("utf-8", "replace"),
        "manufacturer_data": manufacturer,
        "service_data": service_data,
        "service_uuids": tuple(services),
        "tx_power": tx_power,
    }


_UUID_LIST_WIDTH = {0x02: 2, 0x03: 2, 0x04: 4, 0x05: 4, 0x06: 16, 0x07: 16}
"""AD type of a complete or incomplete list of service UUIDs to the size of one UUID in bytes."""

_SERVICE_DATA_WIDTH = {0x16: 2, 0x20: 4, 0x21: 16}
"""AD type of service data to the size of its UUID in bytes."""


def expand_uuid(data: bytes) -> str:
    """Return a UUID of 2, 4 or 16 little-endian bytes as 128 bits in lower case (Vol 3, Part B, 2.5.1)."""
    text = data[::-1].hex()
    if len(data) == 16:
        return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
    return f"{text:0>8}{_BASE_UUID}"


def normalise_uuid(text: str) -> str:
    """Return `180f`, `0x180F`, 32 bits or 128 bits as 128 bits in lower case; raise AdvertisementError."""
    digits = text.lower().removeprefix("0x")
    if _UUID.fullmatch(digits):
        return digits
    if len(digits) in (4, 8) and _is_hex(digits):
        return f"{digits:0>8}{_BASE_UUID}"
    raise AdvertisementError(f"{_shorten(text)} is not a 16, 32 or 128-bit UUID")


def normalise_mac(text: str) -> str:
    """Return `aa-bb-cc-dd-ee-ff` as `AA:BB:CC:DD:EE:FF`; raise AdvertisementError."""
    address = text.upper().replace("-", ":")
    if not _MAC.fullmatch(address):
        raise AdvertisementError(f"{_shorten(text)} is not a MAC address such as AA:BB:CC:DD:EE:FF")
    return address


def printable(name: str) -> str:
    """Return `name` for a terminal: without padding of NUL, with U+FFFD for each control character."""
    return _UNPRINTABLE.sub("\ufffd", name.rstrip("\0"))


def manufacturer_fields(advertisement: Advertisement) -> tuple[dict[str, str], list[dict[str, str]]]:
    """Return the last field of each company as {"4c00": "0215…"}, and the earlier ones in the same form.

    The key is the company identifier as two little-endian bytes in hex, the order used over the air. BlueZ keeps
    only the last field of a company; here each earlier field is a separate object in the list.
    """
    last: dict[str, str] = {}
    earlier: list[dict[str, str]] = []
    for company, fields in advertisement.manufacturer_data.items():
        key = company.to_bytes(2, "little").hex()
        last[key] = fields[-1].hex()
        earlier.extend({key: data.hex()} for data in fields[:-1])
    return last, earlier


def format_timestamp(seconds: float) -> str:
    """Return seconds since 1970 as `2026-01-11T10:30:45.123Z`."""
    whole, milliseconds = divmod(round(seconds * 1000), 1000)
    return f"{_format_second(whole)}.{milliseconds:03d}Z"


@functools.lru_cache(maxsize=4)
def _format_second(whole: int) -> str:
    return datetime.datetime.fromtimestamp(whole, datetime.timezone.utc).replace(tzinfo=None).isoformat()


def parse_timestamp(text: str) -> float:
    """Return an ISO 8601 time as seconds since 1970, in UTC if it has no zone; raise AdvertisementError."""
    try:
        moment = datetime.datetime.fromisoformat(re.sub("[Zz]$", "+00:00", text))
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=datetime.timezone.utc)
        return moment.timestamp()
    except (ValueError, OverflowError):
        raise AdvertisementError(f"timestamp {_shorten(text)} is not a time such as {_EXAMPLE_TIME}") from None


_EXAMPLE_TIME = "2026-01-11T10:30:45.123Z"


class _Reader:
    """Typed access to a JSON object; each method raises an AdvertisementError that names the field."""

    def __init__(self, fields: Mapping[str, Any]) -> None:
        self.fields = fields

    def text(self, name: str) -> str | None:
        value = self.fields.get(name)
        if value is not None and not isinstance(value, str):
            raise AdvertisementError(f"{name} is not a string: {_shorten(value)}")
        return value

    def choice(self, name: str, choices: tuple[str, ...]) -> str | None:
        value = self.text(name)
        if value is not None and value not in choices:
            raise AdvertisementError(f"{name} is not one of {', '.join(choices)}: {_shorten(value)}")
        return value

    def boolean(self, name: str) -> bool | None:
        value = self.fields.get(name)
        if value is not None and not isinstance(value, bool):
            raise AdvertisementError(f"{name} is neither true nor false: {_shorten(value)}")
        return value

    def number(self, name: str, lowest: int, highest: int, unknown: int | None = None) -> int | None:
        """Return a whole number in the range; None if it is missing or equals `unknown`."""
        value = self.fields.get(name)
        if value is None or (value == unknown and unknown is not None):
            return None
        if not isinstance(value, int) or isinstance(value, bool) or not lowest <= value <= highest:
            raise AdvertisementError(f"{name} is not a whole number of dBm in range: {_shorten(value)}")
        return value

    def data(self, name: str) -> bytes | None:
        value = self.fields.get(name)
        return None if value is None else _from_hex(value, name)

    def timestamp(self, default: float) -> float:
        value = self.fields.get("timestamp")
        if isinstance(value, str):
            return parse_timestamp(value)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 2**38:
            raise AdvertisementError(f"timestamp is not a time such as {_EXAMPLE_TIME}: {_shorten(value)}")
        return float(value)

    def mapping(self, name: str) -> dict[str, Any]:
        value = self.fields.get(name)
        if value is not None and not isinstance(value, dict):
            raise AdvertisementError(f"{name} is not an object: {_shorten(value)}")
        return value or {}

    def list(self, name: str) -> list[Any]:
        value = self.fields.get(name)
        if value is not None and not isinstance(value, list):
            raise AdvertisementError(f"{name} is not a list: {_shorten(value)}")
        return value or []

    def parts(self) -> dict[str, Any]:
        """Return the same fields as `_interpret`."""
        name = self.text("local_name")
        services = (_uuid_of(value, "service_uuids") for value in self.list("service_uuids"))
        return {
            "local_name": None if name is None else _SURROGATE.sub("\ufffd", name),
            "manufacturer_data": self.manufacturer_data(),
            "service_data": {
                _uuid_of(service, "service_data"): _from_hex(data, "service_data")
                for service, data in self.mapping("service_data").items()
            },
            "service_uuids": tuple(dict.fromkeys(services)),
            "tx_power": self.number("tx_power", -127, 127),
        }

    def manufacturer_data(self) -> dict[int, tuple[bytes, ...]]:
        found: dict[int, tuple[bytes, ...]] = {}
        for fields in (*self.list("manufacturer_data_earlier"), self.mapping("manufacturer_data")):
            if not isinstance(fields, dict):
                raise AdvertisementError(
                    f"manufacturer_data_earlier contains a value that is not an object: {_shorten(fields)}"
                )
            for key, data in fields.items():
                company = parse_company(key)
                found[company] = (*found.get(company, ()), _from_hex(data, "manufacturer_data"))
        return found


def parse_company(text: str) -> int:
    """Return the company identifier of two little-endian hex bytes: 0x004c for `4c00`; raise AdvertisementError."""
    if len(text) != 4 or not _is_hex(text):
        raise AdvertisementError(f"company {_shorten(text)} is not two little-endian bytes in hex such as 4c00")
    return int.from_bytes(bytes.fromhex(text), "little")


def _derived_address(fields: Mapping[str, Any]) -> str:
    """Return a random static address (Vol 6, Part B, 1.3.2.1) derived from the device name or all fields."""
    import zlib

    named = fields.get("device") or fields.get("local_name") or fields
    text = json.dumps(named, sort_keys=True, default=repr).encode()
    number = zlib.crc32(text) | zlib.crc32(text, 1) << 32
    return (number & 0x3FFF_FFFF_FFFF | 0xC000_0000_0000).to_bytes(6, "big").hex(":").upper()


def _uuid_of(value: object, name: str) -> str:
    if not isinstance(value, str):
        raise AdvertisementError(f"{name} contains a value that is not a UUID: {_shorten(value)}")
    return normalise_uuid(value)


def _from_hex(value: object, name: str) -> bytes:
    if not isinstance(value, str) or not _is_hex(value) or len(value) % 2:
        raise AdvertisementError(f"{name} is not hex: {_shorten(value)}")
    return bytes.fromhex(value)


def _is_hex(text: str) -> bool:
    return all(character in "0123456789abcdefABCDEF" for character in text)


def _shorten(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
