"""Filters: which advertisements pass, and the count of those that do not."""

from __future__ import annotations

from typing import Any

import pytest

from mqttkit.errors import UsageError
from mqttkit.scanner import Advertisement, open_source
from mqttkit.scanner.filters import REMEMBERED, Filters, IntervalFilter
from mqttkit.settings import ScannerSettings

BATTERY = "0000180f-0000-1000-8000-00805f9b34fb"


def heard(**fields: Any) -> Advertisement:
    """Make an advertisement."""
    return Advertisement(**{"mac_address": "A4:C1:38:00:00:01", "timestamp": 0.0} | fields)


@pytest.mark.parametrize(
    ("settings", "passing", "failing"),
    [
        ({"min_rssi": -70}, {"rssi": -70}, {"rssi": -71}),
        ({"min_rssi": -70}, {"rssi": 0}, {"rssi": None}),
        ({"mac": ("a4c1",)}, {}, {"mac_address": "A4:C2:38:00:00:01"}),
        ({"mac": ("00:11", "A4-C1-38-0")}, {}, {"mac_address": "A4:C1:38:10:00:01"}),
        (
            {"company": ("4c00",)},
            {"manufacturer_data": {0x4C: (b"",)}},
            {"manufacturer_data": {0x4C00: (b"",)}},
        ),
        ({"service": ("180F",)}, {"service_uuids": (BATTERY,)}, {"service_uuids": ()}),
        ({"service": ("180f", "1234")}, {"service_data": {BATTERY: b""}}, {}),
        ({"name": ("Room*",)}, {"local_name": "Room 1"}, {"local_name": "room 1"}),
        ({"name": ("A", "B?")}, {"local_name": "B1"}, {"local_name": None}),
    ],
)
def test_a_filter_passes_what_it_names(
    settings: dict[str, Any], passing: dict[str, Any], failing: dict[str, Any]
) -> None:
    """What fails is counted under the option's name."""
    filters = Filters(ScannerSettings(**settings))
    assert filters.passes(heard(**passing))
    assert not filters.dropped
    assert not filters.passes(heard(**failing))
    assert filters.dropped == {next(iter(settings)): 1}


def test_all_filters_must_pass_and_the_first_that_fails_counts() -> None:
    """Options are joined by and."""
    filters = Filters(ScannerSettings(min_rssi=-70, name=("A",)))
    results = [filters.passes(heard(rssi=rssi, local_name=name)) for rssi in (-60, -80) for name in ("A", "B")]
    assert results == [True, False, False, False]
    assert filters.dropped == {"name": 1, "min_rssi": 2}


@pytest.mark.parametrize(
    "settings",
    [
        {"mac": ("A4:XX",)},
        {"mac": ("",)},
        {"company": ("apple",)},
        {"service": ("battery",)},
        {"interval": -1.0},
    ],
)
def test_a_filter_that_cannot_be_is_refused(settings: dict[str, Any]) -> None:
    """The option is named, before any advertisement is heard."""
    with pytest.raises(UsageError, match=next(iter(settings))):
        open_source(ScannerSettings(source="simulated", **settings))


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_interval_passes_a_device_once_unless_its_data_changed() -> None:
    """Another RSSI is no change; other data always pass, and so does the way back."""
    clock = Clock()
    passes = IntervalFilter(10.0, clock)
    closed, opened = heard(service_data={"x": b"\0"}, rssi=-50), heard(service_data={"x": b"\1"})
    assert passes(closed)
    assert not passes(heard(service_data={"x": b"\0"}, rssi=-80))
    assert passes(opened)
    assert passes(closed)
    assert passes(heard(mac_address="00:00:00:00:00:02", service_data={"x": b"\0"}))
    clock.now += 9.9
    assert not passes(closed)
    clock.now += 0.1
    assert passes(closed)
    assert not passes(closed)


def test_a_scan_response_is_no_change_of_data() -> None:
    """A device that says name and measurement in turn is not taken for one that changes each time."""
    passes = IntervalFilter(10.0, Clock())
    named = heard(local_name="A", manufacturer_data={1: (b"n",)})
    measured = heard(manufacturer_data={2: (b"\1",)}, tx_power=4)
    assert [passes(one) for one in (named, measured, named, measured)] == [True, True, False, False]


def test_a_device_without_data_is_limited_too() -> None:
    """Nothing said is nothing changed."""
    passes = IntervalFilter(10.0, Clock())
    assert [passes(heard()), passes(heard())] == [True, False]


def test_interval_remembers_a_bounded_number_of_devices() -> None:
    """The longest silent is forgotten first; one whose data never stop changing grows no memory."""
    passes = IntervalFilter(10.0, Clock())
    addresses = [number.to_bytes(6, "big").hex(":").upper() for number in range(REMEMBERED + 1)]
    assert all(passes(heard(mac_address=address)) for address in addresses)
    assert not passes(heard(mac_address=addresses[1]))
    assert passes(heard(mac_address=addresses[0]))
    assert all(passes(heard(manufacturer_data={number: (b"",)})) for number in range(100))
    assert sum(len(known) for _, known in passes._last.values()) <= 33


def test_open_source_filters_and_counts() -> None:
    """Behind filters a source still ends, and what was dropped adds up with what passed."""
    settings = ScannerSettings(
        source="replay:examples/captures/street-32-per-second.btsnoop", speed=None, min_rssi=-80, interval=5.0
    )
    with open_source(settings) as source:
        assert source.scanning
        passed = list(source)
        assert not source.scanning
    assert all(one.rssi is not None and one.rssi >= -80 for one in passed)
    assert len(passed) + sum(source.dropped.values()) == 412
    assert set(source.dropped) == {"min_rssi", "interval"}
