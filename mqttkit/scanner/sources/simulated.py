"""A source that simulates a room full of devices, without a radio."""

from __future__ import annotations

import itertools
import random
import struct
from collections.abc import Callable, Iterator

from mqttkit.errors import UsageError
from mqttkit.scanner.advertisement import Advertisement
from mqttkit.scanner.hci import mac_text
from mqttkit.scanner.sources.paced import PacedSource

MOST_DEVICES = 100_000
_FLAGS = bytes.fromhex("020106")
"""LE General Discoverable, no BR/EDR."""


class SimulatedSource(PacedSource):
    """Emit `rate` advertisements per second of `devices` devices indefinitely; the same `seed` repeats them.

    Each device is an iBeacon, an Eddystone beacon, a BTHome thermometer or a named sensor. Its RSSI is a random walk
    between -100 and -30 dBm.
    """

    def __init__(self, *, devices: int = 10, rate: float = 20.0, seed: int = 0) -> None:
        if not 1 <= devices <= MOST_DEVICES:
            raise UsageError(f"devices must be 1 to {MOST_DEVICES}, got {devices}")
        if not 0 < rate < float("inf"):
            raise UsageError(f"rate must be above 0 advertisements per second, got {rate}")
        super().__init__()
        self.rate = rate
        self._random = random.Random(seed)  # noqa: S311 - a simulation, not a secret
        self._devices = [_Device(number, self._random) for number in range(devices)]

    def upcoming(self) -> Iterator[tuple[float, Advertisement]]:
        """Implement PacedSource."""
        for number in itertools.count():
            device = self._devices[int(self._random.random() * len(self._devices))]
            yield number / self.rate, device.advertise()


class _Device:
    """One device that moves and measures."""

    def __init__(self, number: int, source: random.Random) -> None:
        self._random = source
        address = source.getrandbits(46).to_bytes(6, "little")
        self.mac_address = mac_text(address[:5] + bytes([address[5] | 0xC0]))
        self.rssi = source.randint(-90, -45)
        self.number = number
        self.count = 0
        self.temperature = source.uniform(15.0, 25.0)
        """Degrees Celsius."""
        self.identifier = source.randbytes(16)
        self._structures = _KINDS[number % len(_KINDS)]

    def advertise(self) -> Advertisement:
        """Move one step and return the next advertisement."""
        self.count += 1
        self.rssi = min(-30, max(-100, self.rssi + int(self._random.random() * 5) - 2))
        return Advertisement.from_raw(
            _FLAGS + self._structures(self),
            mac_address=self.mac_address,
            address_type="random",
            rssi=self.rssi,
            timestamp=0.0,
            connectable=False,
        )

    def measure(self) -> float:
        """Return the temperature; it changes by up to 0.05 degrees with every tenth advertisement."""
        if self.count % 10 == 0:
            self.temperature += (self._random.random() - 0.5) / 10
        return self.temperature


def _structure(kind: int, data: bytes) -> bytes:
    return bytes([len(data) + 1, kind]) + data


def _ibeacon(device: _Device) -> bytes:
    """Return an iBeacon of company 0x004c: UUID, major, minor, power at one metre."""
    body = device.identifier + struct.pack(">HHb", 1, device.number & 0xFFFF, -59)
    return _structure(0xFF, b"\x4c\x00\x02\x15" + body)


def _eddystone(device: _Device) -> bytes:
    """Return an Eddystone UID frame, or telemetry in every tenth advertisement."""
    frame = b"\x00\xe7" + device.identifier + bytes(2)
    if device.count % 10 == 0:
        temperature = int(device.measure() * 256)
        frame = struct.pack(">BBHhII", 0x20, 0, 3000, temperature, device.count, device.count)
    return _structure(0x03, b"\xaa\xfe") + _structure(0x16, b"\xaa\xfe" + frame)


def _bthome(device: _Device) -> bytes:
    """Return BTHome version 2: packet number, battery (%), temperature (0.01 degrees), humidity (0.01 %)."""
    temperature = round(device.measure() * 100)
    packet = device.count // 10 & 0xFF
    body = struct.pack("<BBBBBBhBH", 0x40, 0x00, packet, 0x01, 97, 0x02, temperature, 0x03, 5055)
    name = f"Room {device.number}".encode()
    return _structure(0x16, b"\xd2\xfc" + body) + _structure(0x09, name)


def _sensor(device: _Device) -> bytes:
    """Return a name, the battery service (0x180f), the transmit power, and data of company 0xffff."""
    name = f"Sensor {device.number:04d}".encode()
    body = struct.pack("<h", round(device.measure() * 100))
    return (
        _structure(0x09, name)
        + _structure(0x03, b"\x0f\x18")
        + _structure(0x0A, b"\x04")
        + _structure(0xFF, b"\xff\xff" + body)
    )


_KINDS: tuple[Callable[[_Device], bytes], ...] = (_bthome, _ibeacon, _sensor, _eddystone)
