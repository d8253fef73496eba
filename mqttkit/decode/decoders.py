"""All decoders: find those that may know an advertisement, and call them safely."""

from __future__ import annotations

import functools
import importlib.util
import logging
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from mqttkit.decode import aranet, home_assistant_parsers, switchbot
from mqttkit.decode.atc import SERVICE as ATC
from mqttkit.decode.atc import decode_atc
from mqttkit.decode.beacons import APPLE, EDDYSTONE, decode_eddystone, decode_ibeacon
from mqttkit.decode.reading import Decode, Reading
from mqttkit.decode.routes import ParserRoute, find_routes, short_uuid
from mqttkit.scanner.advertisement import Advertisement

log = logging.getLogger(__name__)

DEVICES = 2_000
"""Devices whose decoders are kept; beyond that the one silent for longest is forgotten."""

_SWITCHBOT, _ARANET, _LAST = ParserRoute("switchbot", ""), ParserRoute("aranet", ""), ParserRoute("theengs", "")
_LIBRARIES: dict[ParserRoute, Callable[[], Decode | None]] = {
    _SWITCHBOT: switchbot.open_parser,
    _ARANET: aranet.open_parser,
}


@dataclass
class DecodeCounts:
    """What became of the advertisements."""

    advertisements: int = 0
    decoded: int = 0
    """With at least one value."""
    failed: Counter[str] = field(default_factory=Counter)
    """Exceptions of decoders, by decoder."""
    needs: Counter[str] = field(default_factory=Counter)
    """Not decoded because something is missing, by what is missing."""


class Decoders:
    """Decodes advertisements with every decoder that is installed. One thread may use it.

    `keys` are the bind keys of devices that encrypt their data, by MAC address in normal form. `last` is asked about
    advertisements in which no other decoder finds values.
    """

    def __init__(self, keys: Mapping[str, bytes] | None = None, *, last: Decode | None = None) -> None:
        self.counts = DecodeCounts()
        self._keys = keys or {}
        self._last = last
        self._devices: OrderedDict[str, dict[ParserRoute, Decode | None]] = OrderedDict()
        self._routes = functools.lru_cache(maxsize=4_096)(_find_decoders)

    def decode(self, advertisement: Advertisement) -> Reading | None:
        """Return the values of an advertisement; None if no decoder knows it. Never raises."""
        self.counts.advertisements += 1
        services = (*advertisement.service_data, *advertisement.service_uuids)
        routes = self._routes(services, tuple(advertisement.manufacturer_data), advertisement.local_name or "")
        if self._last is not None:
            routes = (*routes, _LAST)
        known: Reading | None = None
        for route in routes:
            reading = self._call(route, advertisement)
            if reading is not None and reading.values:
                self.counts.decoded += 1
                return reading
            known = known or reading
        if known is not None and known.needs:
            self.counts.needs[known.needs] += 1
        return known

    def _call(self, route: ParserRoute, advertisement: Advertisement) -> Reading | None:
        """Call a decoder; an exception of a foreign parser is counted and logged once."""
        try:
            decode = self._decoder(route, advertisement.mac_address)
            return None if decode is None else decode(advertisement)
        except Exception as error:  # noqa: BLE001 - a parser fails on data that it does not expect
            if not self.counts.failed[route.module]:
                log.warning("decoder %s failed for %s: %r", route.module, advertisement.mac_address, error)
            self.counts.failed[route.module] += 1
            return None

    def _decoder(self, route: ParserRoute, mac_address: str) -> Decode | None:
        """Return the decoder of a device, which is kept as long as the device advertises."""
        if route is _LAST:
            return self._last
        if route.module in _OWN:
            return _OWN[route.module]
        decoders = self._devices.get(mac_address)
        if decoders is None:
            decoders = self._devices[mac_address] = {}
            if len(self._devices) > DEVICES:
                self._devices.popitem(last=False)
        else:
            self._devices.move_to_end(mac_address)
        if route not in decoders:
            key = self._keys.get(mac_address)
            open_parser = _LIBRARIES.get(route)
            decoders[route] = open_parser() if open_parser else home_assistant_parsers.open_parser(route, key)
        return decoders[route]


def warn_if_incomplete() -> None:
    """Log a warning if only beacons can be decoded."""
    if importlib.util.find_spec("bthome_ble") is None:
        log.warning("only beacons and ATC thermometers are decoded. For others: pip install 'mqttkit[decode]'")


_OWN: dict[str, Decode] = {"ibeacon": decode_ibeacon, "eddystone": decode_eddystone, "atc": decode_atc}


def _find_decoders(services: tuple[str, ...], companies: tuple[int, ...], name: str) -> tuple[ParserRoute, ...]:
    """Return the decoders to ask, in order: a thermometer that is also a beacon is a thermometer."""
    routes = list(find_routes(services, companies, name))
    if not switchbot.COMPANIES.isdisjoint(companies) or not switchbot.SERVICES.isdisjoint(map(short_uuid, services)):
        routes.append(_SWITCHBOT)
    if aranet.COMPANY in companies:
        routes.append(_ARANET)
    if ATC in services:
        routes.append(ParserRoute("atc", ""))
    if APPLE in companies:
        routes.append(ParserRoute("ibeacon", ""))
    if EDDYSTONE in services:
        routes.append(ParserRoute("eddystone", ""))
    return tuple(routes)
