"""Filters for advertisements; rejected advertisements are counted by cause."""

from __future__ import annotations

import fnmatch
import re
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from mqttkit.errors import AdvertisementError, UsageError
from mqttkit.scanner.advertisement import Advertisement, normalise_uuid, parse_company
from mqttkit.settings import ScannerSettings

if TYPE_CHECKING:
    from mqttkit.scanner.identities import Identities

REMEMBERED = 10_000
"""Devices that `interval` remembers; it forgets the one that was silent longest."""
REMEMBERED_PARTS = 32
"""Parts of a device's data that `interval` remembers; when there are more, it forgets all and starts again."""

_PREFIX = re.compile("[0-9A-F]{1,12}")
_Test = Callable[[Advertisement], bool]


class Filters:
    """The filters of the settings. An advertisement must match every option, and one value of each."""

    def __init__(self, settings: ScannerSettings, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.dropped: Counter[str] = Counter()
        self._identities = _open_identities(settings.identities_file, clock)
        self._tests = dict(_tests(settings))
        if settings.interval < 0:
            raise UsageError(f"interval must not be below 0 seconds, got {settings.interval}")
        if settings.interval > 0:
            self._tests["interval"] = IntervalFilter(settings.interval, clock)

    @property
    def active(self) -> bool:
        """Whether the settings contain a filter."""
        return bool(self._tests) or self._identities is not None

    def passes(self, advertisement: Advertisement) -> bool:
        """Return whether it passes every filter; count a rejected one under the first filter that rejects it."""
        for cause, test in self._tests.items():
            if not test(advertisement):
                self.dropped[cause] += 1
                return False
        return True

    def apply(self, batch: list[Advertisement]) -> list[Advertisement]:
        """Return the advertisements that pass, with the aliases of known devices."""
        passed = [advertisement for advertisement in batch if self.passes(advertisement)]
        if self._identities is None:
            return passed
        named = []
        for advertisement in passed:
            cause, found = self._identities.identify(advertisement)
            if found is None:
                self.dropped[cause] += 1
            else:
                named.append(found)
        return named


def _open_identities(path: str | None, clock: Callable[[], float]) -> Identities | None:
    if path is None:
        return None
    from mqttkit.scanner.identities import Identities

    return Identities(path, clock=clock)


def _tests(settings: ScannerSettings) -> Iterator[tuple[str, _Test]]:
    """Yield (cause, test) for each filter in the settings, cheap ones first."""
    if settings.min_rssi is not None:
        yield "min_rssi", _rssi_test(settings.min_rssi)
    if settings.mac:
        yield "mac", _mac_test(settings.mac)
    if settings.company:
        yield "company", _company_test(settings.company)
    if settings.service:
        yield "service", _service_test(settings.service)
    if settings.name:
        yield "name", _name_test(settings.name)


def _rssi_test(lowest: int) -> _Test:
    """Return the test; an unknown RSSI fails it."""
    return lambda advertisement: advertisement.rssi is not None and advertisement.rssi >= lowest


def _mac_test(wanted: tuple[str, ...]) -> _Test:
    prefixes = tuple(_mac_prefix(text) for text in wanted)
    return lambda advertisement: advertisement.mac_address.startswith(prefixes)


def _mac_prefix(text: str) -> str:
    """Return `a4c1`, `A4:C1` or `a4-c1` as `A4:C1`."""
    digits = re.sub("[:-]", "", text.upper())
    if not _PREFIX.fullmatch(digits):
        raise UsageError(f"mac {text!r} is not an address, nor the beginning of one such as A4:C1:38")
    return ":".join(digits[index : index + 2] for index in range(0, len(digits), 2))


def _company_test(wanted: tuple[str, ...]) -> _Test:
    try:
        companies = frozenset(parse_company(text) for text in wanted)
    except AdvertisementError as error:
        raise UsageError(error.message) from error
    return lambda advertisement: not companies.isdisjoint(advertisement.manufacturer_data)


def _service_test(wanted: tuple[str, ...]) -> _Test:
    """Return the test; an advertisement has a service if it lists its UUID or contains its data."""
    try:
        services = frozenset(normalise_uuid(text) for text in wanted)
    except AdvertisementError as error:
        raise UsageError(f"service {error.message}") from error
    return lambda advertisement: (
        not (services.isdisjoint(advertisement.service_uuids) and services.isdisjoint(advertisement.service_data))
    )


def _name_test(patterns: tuple[str, ...]) -> _Test:
    """Return the test; case matters, and an advertisement without a name fails it."""
    wanted = re.compile("|".join(fnmatch.translate(pattern) for pattern in patterns))
    return lambda advertisement: (
        advertisement.local_name is not None and wanted.match(advertisement.local_name) is not None
    )


class IntervalFilter:
    """Passes a device at most once per `seconds`, unless its data changed.

    A device may send its name in one advertisement and its measurements in the next, so each part is compared with
    its own last value.
    """

    def __init__(self, seconds: float, clock: Callable[[], float]) -> None:
        self._seconds = seconds
        self._clock = clock
        self._last: OrderedDict[str, tuple[float, dict[object, object]]] = OrderedDict()

    def __call__(self, advertisement: Advertisement) -> bool:
        """Return whether the advertisement passes, and remember it."""
        now = self._clock()
        parts = _parts(advertisement)
        passed, known = self._last.pop(advertisement.mac_address, (now - self._seconds, {}))
        changed = any(name not in known or known[name] != value for name, value in parts.items())
        passes = changed or now - passed >= self._seconds
        known = known | parts if len(known) < REMEMBERED_PARTS else parts
        self._last[advertisement.mac_address] = (now if passes else passed, known)
        if len(self._last) > REMEMBERED:
            self._last.popitem(last=False)
        return passes


def _parts(advertisement: Advertisement) -> dict[object, object]:
    """Return the parts of an advertisement's data; the RSSI is not one."""
    parts: dict[object, object] = {}
    parts.update(advertisement.manufacturer_data.items())
    parts.update(advertisement.service_data.items())
    for name in ("local_name", "service_uuids", "tx_power"):
        if value := getattr(advertisement, name):
            parts[name] = value
    return parts
