"""Which Bluetooth devices each scanner receives, and how well: from what `mqttkit publish-scan` publishes."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from mqttkit.formats.visible import visible
from mqttkit.web.branches import BranchMessage

MAX_SCANNERS = 32
MAX_DEVICES = 1_000
GONE_SECONDS = 60.0
"""A scanner that has not received a device for so long no longer counts for it."""
SMOOTHING = 0.3
"""Weight of a new RSSI in its average: single values scatter by 10 dB."""
LONGEST_NAME = 64


@dataclass
class Reception:
    """A device as one scanner receives it."""

    rssi: float
    """dBm, averaged."""
    when: float
    """When it was last received, on the monotonic clock."""


@dataclass
class HeardDevice:
    """A device that at least one scanner receives."""

    address: str
    name: str = ""
    scanners: dict[str, Reception] = field(default_factory=dict)


class BleMap:
    """Scanners and devices, bounded. Use it from one thread."""

    def __init__(self) -> None:
        self.devices: dict[str, HeardDevice] = {}

    def add(self, values: list[BranchMessage]) -> None:
        """Take advertisements; ignore other messages."""
        for value in values:
            found = _advertisement(value.payload)
            if found is not None:
                self._add(*found, value.when)

    def state(self, now: float) -> dict[str, object]:
        """Return the scanners by name and, for each device, the scanners that receive it, the strongest first.

        A scanner is given by its place in the list, and its RSSI in whole dBm.
        """
        self._forget(now)
        scanners = sorted({name for device in self.devices.values() for name in device.scanners})
        places = {name: place for place, name in enumerate(scanners)}
        devices = []
        for device in self.devices.values():
            heard = sorted(device.scanners.items(), key=lambda item: -item[1].rssi)
            newest = max(reception.when for _, reception in heard)
            seen = [(places[name], round(reception.rssi)) for name, reception in heard]
            devices.append((device.address, device.name, round(now - newest, 1), seen))
        return {"scanners": scanners, "devices": sorted(devices)}

    def _add(self, scanner: str, address: str, name: str, rssi: float, when: float) -> None:
        device = self.devices.get(address)
        if device is None:
            if len(self.devices) >= MAX_DEVICES:
                return
            device = self.devices[address] = HeardDevice(address)
        device.name = name or device.name
        known = device.scanners.get(scanner)
        if known is not None:
            known.rssi += SMOOTHING * (rssi - known.rssi)
            known.when = when
        elif len(device.scanners) < MAX_SCANNERS:
            device.scanners[scanner] = Reception(rssi, when)

    def _forget(self, now: float) -> None:
        for address, device in list(self.devices.items()):
            kept = {name: each for name, each in device.scanners.items() if now - each.when < GONE_SECONDS}
            device.scanners = kept
            if not kept:
                del self.devices[address]


def _advertisement(payload: bytes) -> tuple[str, str, str, float] | None:
    """Return scanner, address, name and RSSI of an advertisement; None if the payload is not one with an RSSI."""
    try:
        found = json.loads(payload)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict):
        return None
    scanner, address, rssi = found.get("scanner_id"), found.get("mac_address"), found.get("rssi")
    name = found.get("alias") or found.get("local_name") or ""
    if not (isinstance(scanner, str) and isinstance(address, str) and type(rssi) is int and -128 < rssi < 127):
        return None
    return (
        *(visible(scanner[:LONGEST_NAME]), visible(address[:LONGEST_NAME])),
        *(visible(name[:LONGEST_NAME]) if isinstance(name, str) else "", float(rssi)),
    )
