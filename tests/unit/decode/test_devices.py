"""Devices that several gateways hear: de-duplication, nearest gateway, presence."""

from __future__ import annotations

import pytest

from mqttkit.decode import Decoders
from mqttkit.decode import devices as devices_module
from mqttkit.decode.beacons import EDDYSTONE
from mqttkit.decode.devices import GATEWAYS, DecodedDevice, DeviceTable
from mqttkit.scanner import Advertisement

MAC = "AA:BB:CC:DD:EE:FF"


def beacon(temperature: int = 20, *, mac_address: str = MAC, rssi: int | None = -60) -> Advertisement:
    """Return an Eddystone beacon with a thermometer."""
    data = bytes([0x20, 0, 0, 0, temperature, 0, *bytes(8)])
    return Advertisement(mac_address=mac_address, timestamp=0, rssi=rssi, service_data={EDDYSTONE: data})


def table() -> DeviceTable:
    """Return a table for one test."""
    return DeviceTable(Decoders(), window=2.0, away_after=300.0)


def test_the_same_content_from_another_gateway_is_decoded_once() -> None:
    """Within the window; each packet is counted for its gateway."""
    devices = table()
    device = devices.add("hall", beacon(), 0.0)
    assert device is not None
    assert device.values["temperature"].value == 20.0
    assert devices.add("kitchen", beacon(), 2.0) is None
    assert devices.counts == {"decoded": 1, "duplicate": 1}
    assert {name: heard.packets for name, heard in device.gateways.items()} == {"hall": 1, "kitchen": 1}
    devices.add("kitchen", beacon(), 2.1)
    assert devices.counts["decoded"] == 2


def test_only_a_change_is_reported() -> None:
    """A new value, and not an equal one."""
    devices = table()
    assert devices.add("hall", beacon(20), 0.0) is not None
    assert devices.add("hall", beacon(20), 10.0) is None
    assert devices.add("hall", beacon(21), 20.0) is not None


def test_a_device_without_values_is_not_kept() -> None:
    """Phones of bystanders have no state."""
    devices = table()
    assert devices.add("hall", Advertisement(mac_address=MAC, timestamp=0, local_name="phone"), 0.0) is None
    assert list(devices) == []
    assert devices.counts == {"without values": 1}


def test_the_nearest_gateway_has_the_best_smoothed_rssi() -> None:
    """One strong packet changes nothing; a lasting lead does, and so does silence."""
    devices = table()
    device = devices.add("hall", beacon(rssi=-60), 0.0)
    assert device is not None
    devices.add("kitchen", beacon(rssi=-58), 0.1)
    assert device.nearest == "hall"
    assert devices.add("kitchen", beacon(rssi=-50), 0.2) is device
    assert (device.nearest, device.gateways["kitchen"].rssi) == ("kitchen", pytest.approx(-55.6))
    devices.add("hall", beacon(rssi=-90), 30.3)
    assert device.nearest == "hall"
    assert device.gateways["hall"].rssi == -90


def test_the_gateway_silent_for_longest_is_forgotten() -> None:
    """Identifiers that change for ever must not fill the memory."""
    devices = table()
    for number in range(GATEWAYS + 1):
        devices.add(f"gateway-{number}", beacon(number % 50), float(number))
    (device,) = devices
    assert list(device.gateways) == [f"gateway-{number}" for number in range(1, GATEWAYS + 1)]


def test_an_unknown_rssi_changes_no_average() -> None:
    """The gateway still counts the packet."""
    device = DecodedDevice(MAC)
    device.hear("hall", -60, 0.0)
    device.hear("hall", None, 1.0)
    assert (device.gateways["hall"].rssi, device.gateways["hall"].packets) == (-60.0, 2)


def test_a_silent_device_is_away_until_it_is_heard() -> None:
    """Reported once each."""
    devices = table()
    device = devices.add("hall", beacon(), 0.0)
    assert devices.expire(300.0) == []
    assert devices.expire(300.1) == [device]
    assert devices.expire(400.0) == []
    assert devices.add("hall", beacon(), 500.0) is device
    assert device is not None
    assert device.home


def test_the_device_silent_for_longest_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Random addresses must not fill the memory."""
    monkeypatch.setattr(devices_module, "KEPT", 2)
    devices = table()
    for number, address in enumerate((1, 2, 1, 3)):
        devices.add("hall", beacon(mac_address=f"AA:BB:CC:DD:EE:0{address}"), float(number))
    assert [device.mac_address[-1] for device in devices] == ["1", "3"]
