"""Sources of devices, what tells devices apart, and what a scan changes."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from mqttkit.controller.discovery.command import CommandSource
from mqttkit.controller.discovery.inventory import DeviceInventory
from mqttkit.controller.discovery.neighbours import parse_neighbours
from mqttkit.controller.discovery.opening import ScanPlan, open_discovery
from mqttkit.controller.discovery.sweep import SweepSource
from mqttkit.controller.discovery.types import DiscoveryFailed, to_report
from mqttkit.controller.store import Store
from mqttkit.errors import UsageError
from tests.support.controllers import eventually


def test_a_command_prints_a_device_a_line() -> None:
    """Empty lines do not count."""
    source = open_discovery("""printf '{"ip":"10.0.0.1"}\\n\\n{"mac":"aa"}\\n'""", ScanPlan())
    assert source() == [{"ip": "10.0.0.1"}, {"mac": "aa"}]


@pytest.mark.parametrize(("command", "message"), [
    ("exit 3", "'exit 3' ended with 3"),
    ("echo x", "printed a line that is not JSON: x"),
    ("echo '[1]'", "printed a line that is not a JSON object"),
    ("kill -9 $$", "was ended"),
    ("head -c 5000000 /dev/zero", "printed more than"),
])  # fmt: skip
def test_a_command_that_fails_is_named(command: str, message: str) -> None:
    """With what it did."""
    with pytest.raises(DiscoveryFailed, match=message):
        CommandSource(command)()


def test_a_command_ends_with_everything_that_it_has_started() -> None:
    """When its controller ends, or its time is over."""
    source = CommandSource("sleep 600 & sleep 600")
    errors: list[Exception] = []

    def scan() -> None:
        try:
            source()
        except DiscoveryFailed as error:
            errors.append(error)

    thread = threading.Thread(target=scan)
    thread.start()
    eventually(lambda: source._process is not None)
    source.close()
    thread.join(60)
    assert "was ended" in str(errors[0])
    with pytest.raises(DiscoveryFailed, match="has ended"):
        source()
    with pytest.raises(DiscoveryFailed, match="was ended"):
        CommandSource("sleep 600", timeout=0.1)()


def test_neighbours_are_one_device_for_each_mac_address() -> None:
    """Entries without an answer are not devices."""
    entries: list[dict[str, Any]] = [
        {"dst": "fe80::1", "dev": "eth0", "lladdr": "aa:01", "router": None, "state": ["STALE"]},
        {"dst": "10.0.0.1", "dev": "eth0", "lladdr": "aa:01", "state": ["REACHABLE"]},
        {"dst": "10.0.0.2", "dev": "eth0", "state": ["FAILED"]},
        {"dst": "10.0.0.3", "dev": "eth0", "lladdr": "aa:03", "state": ["INCOMPLETE"]},
    ]
    assert parse_neighbours(entries) == [
        {"mac": "aa:01", "addresses": ["10.0.0.1", "fe80::1"], "interface": "eth0", "ip": "10.0.0.1", "router": True}
    ]


@pytest.mark.parametrize("subnet", ["x", "10.0.0.0/8", "fe80::/64"])
def test_a_subnet_that_cannot_be_swept_is_refused(subnet: str) -> None:
    """Before anything is sent."""
    with pytest.raises(UsageError, match="subnet"):
        SweepSource(subnet)


def test_a_sweep_ends_early_when_it_is_closed() -> None:
    """Addresses of loopback, one a second."""
    source = SweepSource("127.0.0.0/24", rate=1.0)
    threading.Timer(0.2, source.close).start()
    began = time.monotonic()
    with pytest.raises(DiscoveryFailed, match="ended early"):
        source()
    assert time.monotonic() - began < 200


@pytest.mark.parametrize("found", [[{}], ["x"], {"devices": "x"}, {"devices": [{"mac": 7}]}, {}])
def test_devices_that_cannot_be_told_apart_are_an_error(found: Any) -> None:
    """Each needs an id, a mac or an ip."""
    with pytest.raises(DiscoveryFailed):
        to_report(found)


@pytest.fixture
def store() -> Iterator[Store]:
    """In memory."""
    made = Store()
    yield made
    made.close()


def test_a_scan_shows_what_is_new_changed_and_gone(store: Store) -> None:
    """A round trip that differs is no change; a device that comes back is new again."""
    inventory = DeviceInventory(store)

    def scan(seen: int, *devices: dict[str, Any]) -> dict[str, Any]:
        changes = inventory.compare("lc-1", devices)
        inventory.save("lc-1", devices, changes, seen=seen)
        store.commit()
        return changes.to_payload()

    router = {"mac": "aa", "ip": "10.0.0.1"}
    assert scan(1, {**router, "rtt_ms": 1.0}, {"ip": "10.0.0.2"}) == {
        "new": ["aa", "10.0.0.2"],
        "changed": [],
        "gone": [],
    }
    assert scan(2, {**router, "rtt_ms": 2.0}, {"ip": "10.0.0.2"}) == {"new": [], "changed": [], "gone": []}
    moved = {**router, "ip": "10.0.0.9"}
    assert scan(3, moved) == {"new": [], "changed": ["aa"], "gone": [{"ip": "10.0.0.2"}]}
    assert scan(4, moved, {"ip": "10.0.0.2"})["new"] == ["10.0.0.2"]
    assert [(row.key, row.first, row.gone, row.seen) for row in store.devices()] == [
        ("10.0.0.2", 4, 0, 4), ("aa", 1, 0, 4),
    ]  # fmt: skip


def test_an_undone_batch_changes_no_inventory(store: Store) -> None:
    """The report comes again, and its devices are new again."""
    inventory = DeviceInventory(store)
    devices = [{"mac": "aa"}]
    inventory.save("lc-1", devices, inventory.compare("lc-1", devices), seen=1)
    store.roll_back()
    assert list(inventory.compare("lc-1", devices).new) == ["aa"]
    assert store.devices() == []


def test_devices_that_are_gone_are_bounded(store: Store) -> None:
    """The oldest are deleted first."""
    inventory = DeviceInventory(store)
    for number in range(5):
        devices = [{"ip": str(number)}]
        changes = inventory.compare("lc-1", devices)
        store.save_devices("lc-1", [], list(changes.gone), seen=number, max_gone=2)
        inventory.save("lc-1", devices, changes, seen=number)
    assert [row.key for row in store.devices() if row.gone] == ["2", "3"]
