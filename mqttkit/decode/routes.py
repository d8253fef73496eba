"""Which parser of Home Assistant an advertisement is for. Pure: imports no parser."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

_BASE_UUID = "-0000-1000-8000-00805f9b34fb"


class ParserRoute(NamedTuple):
    """A parser, and the advertisements that it may know. One match is enough."""

    module: str
    parser: str
    """Class of the parser."""
    services: frozenset[str] = frozenset()
    """Service UUIDs; 16-bit ones as four digits."""
    companies: frozenset[int] = frozenset()
    names: str = ""
    """Regular expression for the beginning of the local name."""
    company_endings: frozenset[int] = frozenset()
    """Low bytes of companies, for devices that put data into the rest."""
    service_endings: frozenset[str] = frozenset()
    """Last two digits of 16-bit services, for the same reason."""

    def matches(self, services: Iterable[str], companies: Iterable[int], name: str) -> bool:
        """Return whether the parser may know an advertisement."""
        return (
            any(service in self.services or service[2:] in self.service_endings for service in services)
            or any(company in self.companies or company & 0xFF in self.company_endings for company in companies)
            or bool(self.names and re.match(self.names, name))
        )


def _route(
    module: str,
    parser: str,
    *,
    services: str = "",
    companies: Iterable[int] = (),
    names: str = "",
    company_endings: Iterable[int] = (),
    service_endings: str = "",
) -> ParserRoute:
    return ParserRoute(
        module,
        f"{parser}BluetoothDeviceData",
        frozenset(services.split()),
        frozenset(companies),
        names,
        frozenset(company_endings),
        frozenset(service_endings.split()),
    )


ROUTES = (
    _route("bthome_ble", "BTHome", services="fcd2 181c 181e"),
    _route("xiaomi_ble", "Xiaomi", services="fe95 181b 181d fd50", companies=(0x0157,)),
    _route(
        "govee_ble", "Govee",
        services="ec88 5550", service_endings="51", companies=(0xEC88, 0xEF88, 0x0001, 0xEA42),
        names="Govee|GV|ihoment_|B5178|minger_",
    ),
    _route("inkbird_ble", "INKBIRD", names="(?i)sps|tps|[ix]bbq|inkbird|ith-|iam-t|ibs-"),
    _route("qingping_ble", "Qingping", services="fdcd fff9"),
    _route("sensorpush_ble", "SensorPush", services="ef090000-11d6-42ba-93b8-9dd7ec090ab0", names="SensorPush|s$"),
    _route(
        "thermopro_ble", "ThermoPro",
        services="72fbb631-6f6b-d1ba-db55-2ee6fdd942bd", company_endings=(0xC2,), names="TP|ThermoPro",
    ),
    _route("ruuvitag_ble", "Ruuvitag", companies=(0x0499,)),
    _route("oralb_ble", "OralB", companies=(0x00DC,)),
    _route("sensirion_ble", "Sensirion", companies=(0x06D5,)),
    _route(
        "thermobeacon_ble", "ThermoBeacon",
        services="fff0", companies=(0x10, 0x11, 0x14, 0x15, 0x18, 0x1B, 0x30), names="ThermoBeacon",
    ),
    _route("moat_ble", "Moat", services="1000", names="Moat_"),
    _route("mopeka_iot_ble", "MopekaIOT", services="fee5", companies=(0x0059,)),
    _route("tilt_ble", "Tilt", companies=(0x004C,)),
    _route("kegtron_ble", "Kegtron", companies=(0xFFFF,)),
    _route("bluemaestro_ble", "BlueMaestro", companies=(0x0133,)),
    _route("leaone_ble", "Leaone", company_endings=(0xC0,)),
    _route("rapt_ble", "RAPTPill", companies=(0x4152, 0x454B)),
)  # fmt: skip


def short_uuid(service: str) -> str:
    """Return a 16-bit service as four digits, another one unchanged."""
    return service[4:8] if service.startswith("0000") and service.endswith(_BASE_UUID) else service


def find_routes(services: Iterable[str], companies: Iterable[int], name: str) -> tuple[ParserRoute, ...]:
    """Return the parsers to ask; `services` are 128 bits."""
    known, numbers = [short_uuid(service) for service in services], list(companies)
    return tuple(route for route in ROUTES if route.matches(known, numbers, name))
