"""The table of `mqttkit scan` and `mqttkit demo`."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from rich.console import Console, JustifyMethod
from rich.live import Live
from rich.table import Table
from rich.text import Text

from mqttkit.cli.output.render import live_widths
from mqttkit.decode.reading import Reading
from mqttkit.scanner import Advertisement
from mqttkit.scanner.advertisement import manufacturer_fields, printable

REMEMBERED = 10_000
"""Devices in memory; beyond that the one silent for longest is dropped."""
NEAR, FAR = -65, -85
"""dBm: signals that are strong, and those below which they are weak."""
QUIET_SECONDS = 10.0


@dataclass
class DeviceRow:
    """One device."""

    name: str = ""
    about: str = ""
    """Its values, or its companies and services, shortened."""
    values: str = ""
    rssi: int | None = None
    heard: int = 0
    last: float = 0.0
    """Seconds since 1970."""

    @property
    def strength(self) -> int:
        """RSSI to rank by; unknown is weakest."""
        return -999 if self.rssi is None else self.rssi


class Devices:
    """The devices heard; the latest is last."""

    def __init__(self) -> None:
        self.heard = 0
        self._devices: OrderedDict[str, DeviceRow] = OrderedDict()

    def add(self, advertisement: Advertisement, reading: Reading | None = None) -> None:
        """Add one advertisement, and its values if it has been decoded."""
        self.heard += 1
        device = self._devices.pop(advertisement.mac_address, None) or DeviceRow()
        self._devices[advertisement.mac_address] = device
        device.heard += 1
        device.last = advertisement.timestamp
        device.rssi = advertisement.rssi if advertisement.rssi is not None else device.rssi
        device.name = printable(advertisement.local_name or "") or device.name
        if reading is not None and str(reading):
            device.values = printable(str(reading))
        device.about = device.values or _about(advertisement) or device.about
        if len(self._devices) > REMEMBERED:
            self._devices.popitem(last=False)

    def table(self, rows: int, width: int = 120) -> Table:
        """Return a table of `rows` devices: those heard in the last minute first, the strongest at the top.

        It fits into `width` cells: addresses stay whole, the other texts are shortened, and columns are left out.
        """
        now = time.time()
        ranked = sorted(self._devices.items(), key=lambda item: (now - item[1].last > 60, -item[1].strength))
        lines = [_cells(mac_address, device, now) for mac_address, device in ranked[: max(rows, 1)]]
        texts = [[cell.plain for cell in line] for line in lines]
        widths = live_widths([name for name, _ in _COLUMNS], texts, width, shrink=_SHRINK, drop=_DROP)
        table = Table(title=f"{len(self._devices)} devices, {self.heard} advertisements")
        for index, size in widths.items():
            table.add_column(_COLUMNS[index][0], justify=_COLUMNS[index][1], width=size, no_wrap=True)
        for line in lines:
            table.add_row(*(line[index] for index in widths))
        if len(ranked) > len(lines):
            table.caption = f"{len(ranked) - len(lines)} more"
        return table


def _cells(mac_address: str, device: DeviceRow, now: float) -> list[Text]:
    """Return a row: a strong signal in green, a weak one in red; a device that was not heard for long dimmed."""
    rssi = "?" if device.rssi is None else str(device.rssi)
    signal = "green" if device.strength >= NEAR else "red" if device.strength < FAR else "yellow"
    age = max(0.0, now - device.last)
    return [
        *(Text(mac_address), Text(device.name), Text(rssi, signal), Text(str(device.heard))),
        *(Text(f"{age:.0f} s", "dim" if age > QUIET_SECONDS else ""), Text(device.about)),
    ]


_COLUMNS: tuple[tuple[str, JustifyMethod], ...] = (
    ("device", "left"),
    ("name", "left"),
    ("RSSI dBm", "right"),
    ("heard", "right"),
    ("last", "right"),
    ("content", "left"),
)
_SHRINK = {"name": 8, "content": 8}
_DROP = ("content", "heard", "last", "name")
"""What a narrow terminal leaves out, the first one first."""


def _about(advertisement: Advertisement) -> str:
    """Return companies in air order and services, 16-bit ones as four digits."""
    services = dict.fromkeys((*advertisement.service_data, *advertisement.service_uuids))
    return " ".join((*manufacturer_fields(advertisement)[0], *(_short(service) for service in services)))


def _short(service: str) -> str:
    return service[4:8] if service.endswith("-0000-1000-8000-00805f9b34fb") else service[:8]


def show_table(
    batches: Iterable[list[Advertisement]],
    read: Callable[[Advertisement], Reading | None] = lambda _: None,
    console: Console | None = None,
) -> None:
    """Keep a table of the devices on the terminal until the batches end; `read` decodes their values."""
    console = console or Console()
    devices = Devices()

    def render() -> Table:
        return devices.table(console.height - 7, console.width)

    with Live(get_renderable=render, console=console, refresh_per_second=4):
        for batch in batches:
            for advertisement in batch:
                devices.add(advertisement, read(advertisement))
