"""Scanners and devices from advertisements."""

from __future__ import annotations

import json

import pytest

from mqttkit.web import ble_map
from mqttkit.web.ble_map import BleMap
from mqttkit.web.branches import BranchMessage


def heard(scanner: str, address: str, rssi: object, when: float = 1.0, **further: object) -> BranchMessage:
    content = {"scanner_id": scanner, "mac_address": address, "rssi": rssi, "local_name": None, **further}
    return BranchMessage("ble/raw/x", json.dumps(content).encode(), when)


def test_a_device_has_its_scanners_the_strongest_first() -> None:
    found = BleMap()
    found.add([heard("s1", "AA", -70), heard("s2", "AA", -50, local_name="Thermo"), heard("s1", "BB", -80)])
    assert found.state(3.0) == {
        "scanners": ["s1", "s2"],
        "devices": [("AA", "Thermo", 2.0, [(1, -50), (0, -70)]), ("BB", "", 2.0, [(0, -80)])],
    }


def test_the_rssi_is_averaged() -> None:
    found = BleMap()
    found.add([heard("s", "AA", -50), heard("s", "AA", -90)])
    assert found.state(1.0)["devices"] == [("AA", "", 0.0, [(0, -62)])]


def test_what_was_not_received_for_a_minute_disappears() -> None:
    found = BleMap()
    found.add([heard("s1", "AA", -50, when=0.0), heard("s2", "AA", -60, when=50.0)])
    assert found.state(61.0) == {"scanners": ["s2"], "devices": [("AA", "", 11.0, [(0, -60)])]}
    assert found.state(200.0) == {"scanners": [], "devices": []}


@pytest.mark.parametrize(
    "payload",
    [b"", b"[]", b"{", b"[" * 100_000, b'{"scanner_id": 1, "mac_address": "AA", "rssi": -50}', b'{"rssi": -50}']
    + [heard("s", "AA", rssi).payload for rssi in (None, True, "x", 1.5, 1000)],
)
def test_other_messages_are_ignored(payload: bytes) -> None:
    found = BleMap()
    found.add([BranchMessage("ble/raw/x", payload, 0.0)])
    assert found.devices == {}


def test_names_are_short_and_without_control_characters() -> None:
    found = BleMap()
    found.add([heard("\x1b[2J", "AA", -50, local_name="x" * 1000)])
    ((_, name, _, _),) = found.state(1.0)["devices"]  # type: ignore[misc]
    assert len(name) == ble_map.LONGEST_NAME
    assert found.state(1.0)["scanners"] == ["\\x1b[2J"]


def test_the_number_of_devices_and_scanners_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ble_map, "MAX_DEVICES", 3)
    monkeypatch.setattr(ble_map, "MAX_SCANNERS", 2)
    found = BleMap()
    found.add([heard(f"s{scanner}", f"A{device}", -50) for scanner in range(5) for device in range(5)])
    assert len(found.devices) == 3
    assert {len(device.scanners) for device in found.devices.values()} == {2}
