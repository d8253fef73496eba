"""Simulated devices: the same seed, the same room; the rate asked for; data that real parsers know."""

from __future__ import annotations

import itertools
import time

import pytest

from mqttkit.errors import UsageError
from mqttkit.scanner import Advertisement, open_source
from mqttkit.scanner.sources.simulated import SimulatedSource
from mqttkit.settings import ScannerSettings


def heard(count: int, *, devices: int = 10, seed: int = 0) -> list[Advertisement]:
    """Return the first advertisements without waiting for them."""
    upcoming = SimulatedSource(devices=devices, seed=seed).upcoming()
    return [advertisement for _, advertisement in itertools.islice(upcoming, count)]


def test_the_same_seed_gives_the_same_room() -> None:
    """Addresses, data and RSSI; another seed gives another one."""
    assert heard(500) == heard(500) != heard(500, seed=1)


def test_every_device_is_heard_and_keeps_its_address() -> None:
    """As many random static addresses as devices, RSSI that walks within bounds."""
    room = heard(2000, devices=25)
    addresses = {one.mac_address for one in room}
    assert len(addresses) == 25
    assert all(int(address[:2], 16) >= 0xC0 for address in addresses)
    one = [each.rssi or 0 for each in room if each.mac_address == room[0].mac_address]
    assert all(-100 <= rssi <= -30 for rssi in one)
    assert 0 < max(abs(after - before) for before, after in itertools.pairwise(one)) <= 2


def test_the_room_has_devices_of_each_kind() -> None:
    """iBeacons, Eddystone beacons with telemetry, thermometers, named sensors with power."""
    room = heard(2000)
    eddystone = "0000feaa-0000-1000-8000-00805f9b34fb"
    assert any(data[0][:2] == b"\x02\x15" and len(data[0]) == 23 for data in fields(room, 0x004C))
    frames = {one.service_data[eddystone][0] for one in room if eddystone in one.service_data}
    assert frames == {0x00, 0x20}
    thermometers = {one.local_name for one in room if "0000fcd2-0000-1000-8000-00805f9b34fb" in one.service_data}
    assert thermometers == {"Room 0", "Room 4", "Room 8"}
    assert {one.tx_power for one in room if (one.local_name or "").startswith("Sensor")} == {4}
    assert len(set(fields(room, 0xFFFF))) > 3
    assert all(one.raw is not None and len(one.raw) <= 31 for one in room)


def fields(room: list[Advertisement], company: int) -> list[tuple[bytes, ...]]:
    """Return the manufacturer data of one company."""
    return [one.manufacturer_data[company] for one in room if company in one.manufacturer_data]


def test_the_rate_is_kept() -> None:
    """500 a second give 100 in a fifth of a second, time-stamped as they leave."""
    begun, wall = time.monotonic(), time.time()
    with open_source(ScannerSettings(source="simulated", rate=500)) as source:
        room = list(itertools.islice(source, 101))
    assert 0.2 <= time.monotonic() - begun < 60
    assert 0.19 < room[-1].timestamp - wall < 60
    assert room[0].timestamp < room[-1].timestamp


@pytest.mark.parametrize("settings", [{"devices": 0}, {"devices": 10**6}, {"rate": 0.0}, {"rate": float("nan")}])
def test_a_room_that_cannot_be_is_refused(settings: dict[str, float]) -> None:
    """The setting is named."""
    with pytest.raises(UsageError, match=next(iter(settings))):
        SimulatedSource(**settings)  # type: ignore[arg-type]
