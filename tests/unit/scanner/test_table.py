"""The table of devices that `mqttkit scan` shows on a terminal."""

from __future__ import annotations

import io
import time
from typing import Any

import pytest
from rich.console import Console

from mqttkit.cli.scan import live_table as scan_render
from mqttkit.cli.scan.live_table import Devices, show_table
from mqttkit.scanner import Advertisement


def heard(number: int, **fields: Any) -> Advertisement:
    """Make an advertisement of the device of that number, heard now."""
    return Advertisement(**{"mac_address": f"AA:BB:CC:DD:EE:{number:02X}", "timestamp": time.time()} | fields)


def rows(devices: Devices, count: int = 10) -> list[list[str]]:
    """Return the cells of the table's rows."""
    columns = [[str(cell) for cell in column.cells] for column in devices.table(count).columns]
    return [list(row) for row in zip(*columns, strict=True)]


def test_what_a_device_said_once_stays_and_the_strongest_come_first() -> None:
    """A name from one advertisement, manufacturer data from the next; devices of the last minute go before others."""
    devices = Devices()
    for one in (
        heard(1, rssi=-20, timestamp=time.time() - 300),
        heard(2, rssi=-70, local_name="Room\x1b 2"),
        heard(2, rssi=None, manufacturer_data={0x4C: (b"",)}),
        heard(3, rssi=0, service_uuids=("0000180f-0000-1000-8000-00805f9b34fb",)),
        heard(4),
    ):
        devices.add(one)
    assert [row[:4] for row in rows(devices)] == [
        ["AA:BB:CC:DD:EE:03", "", "0", "1"],
        ["AA:BB:CC:DD:EE:02", "Room\ufffd 2", "-70", "2"],
        ["AA:BB:CC:DD:EE:04", "", "?", "1"],
        ["AA:BB:CC:DD:EE:01", "", "-20", "1"],
    ]
    assert [row[5] for row in rows(devices)] == ["180f", "4c00", "", ""]
    assert len(rows(devices, 2)) == 2
    assert devices.table(2).title == "4 devices, 5 advertisements"


@pytest.mark.parametrize("width", [120, 100, 80, 60, 40])
def test_the_table_fits_the_terminal(width: int) -> None:
    """Addresses stay whole and no line is wider than the terminal; a line counts the devices without room."""
    devices = Devices()
    for number in range(30):
        services = ("0000180f-0000-1000-8000-00805f9b34fb",) * 3
        devices.add(heard(number, rssi=-40 - 2 * number, local_name="a name of some length", service_uuids=services))
    console = Console(file=io.StringIO(), width=width, color_system=None)
    with console.capture() as capture:
        console.print(devices.table(10, width))
    lines = capture.get().splitlines()
    assert max(map(len, lines)) <= width
    assert sum("AA:BB:CC:DD:EE:" in line for line in lines) == 10
    assert "AA:BB:CC:DD:EE:09" in capture.get()
    assert "20 more" in lines[-1]
    assert ("content" in capture.get()) == (width >= 80)
    assert ("-40" in capture.get()) == (width >= 40)


def test_a_bounded_number_of_devices_is_remembered(monkeypatch: Any) -> None:
    """The longest silent is forgotten first."""
    monkeypatch.setattr(scan_render, "REMEMBERED", 2)
    devices = Devices()
    for number in (1, 2, 1, 3):
        devices.add(heard(number))
    assert {row[0][-2:] for row in rows(devices)} == {"01", "03"}


def test_the_table_stands_at_the_end() -> None:
    """What was heard last is shown when the batches end."""
    screen = io.StringIO()
    show_table(
        [[heard(1, local_name="[bold]x")]], console=Console(file=screen, force_terminal=True, width=120, height=20)
    )
    assert "[bold]x" in screen.getvalue()
