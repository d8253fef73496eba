"""The devices that several gateways hear: values, presence, and the nearest gateway. Pure."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field

from mqttkit.decode.decoders import Decoders
from mqttkit.decode.reading import Reading, Value
from mqttkit.scanner.advertisement import Advertisement

KEPT = 2_000
"""Devices in memory; beyond that the one silent for longest is forgotten."""
GATEWAYS = 100
"""Gateways of a device; beyond that the one that has not heard it for longest is forgotten."""
SMOOTHING = 0.3
"""Weight of a new RSSI in its moving average."""
GATEWAY_SECONDS = 30.0
"""A gateway that has not heard a device for so long is not its nearest one."""
LEAD = 3.0
"""dBm by which another gateway must hear a device better to become the nearest one."""
UNKNOWN_RSSI = -127.0


@dataclass
class Heard:
    """How one gateway hears a device."""

    rssi: float = UNKNOWN_RSSI
    """Moving average, dBm."""
    last: float = 0.0
    packets: int = 0


@dataclass
class DecodedDevice:
    """What is known of a device."""

    mac_address: str
    name: str = ""
    model: str = ""
    manufacturer: str = ""
    values: dict[str, Value] = field(default_factory=dict)
    gateways: dict[str, Heard] = field(default_factory=dict)
    nearest: str = ""
    home: bool = False
    last: float = 0.0
    """When it was heard last, on the monotonic clock, like every time here."""
    content: tuple[object, ...] = ()
    """What its last advertisement contained."""
    content_time: float = 0.0
    announced: tuple[object, ...] | None = None
    """What its latest discovery message was made from; None if there is none on this connection."""
    published: float | None = None
    """When its state was published last; None if it was not, or not on this connection."""

    def hear(self, gateway: str, rssi: int | None, now: float) -> None:
        """Record that a gateway heard the device."""
        heard = self.gateways.setdefault(gateway, Heard())
        if rssi is not None:
            known = heard.rssi != UNKNOWN_RSSI and now - heard.last <= GATEWAY_SECONDS
            heard.rssi = heard.rssi + SMOOTHING * (rssi - heard.rssi) if known else float(rssi)
        if len(self.gateways) > GATEWAYS:
            del self.gateways[min(self.gateways, key=lambda name: (name == gateway, self.gateways[name].last))]
        heard.packets += 1
        heard.last = self.last = now

    def find_nearest(self, now: float) -> str:
        """Return the gateway with the best RSSI; the present one keeps its place against a small lead."""
        fresh = {name: heard.rssi for name, heard in self.gateways.items() if now - heard.last <= GATEWAY_SECONDS}
        best = max(fresh, key=fresh.__getitem__, default="")
        present = fresh.get(self.nearest)
        return self.nearest if present is not None and fresh[best] - present < LEAD else best

    def update(self, reading: Reading) -> bool:
        """Take over a reading; return whether a value changed."""
        self.name = reading.name or self.name
        self.model = reading.model or self.model
        self.manufacturer = reading.manufacturer or self.manufacturer
        changed = any(self.values.get(value.quantity) != value for value in reading.values)
        self.values.update((value.quantity, value) for value in reading.values)
        return changed


class DeviceTable:
    """Devices with values. An advertisement that several gateways hear within `window` seconds is decoded once."""

    def __init__(self, decoders: Decoders, *, window: float = 2.0, away_after: float = 300.0) -> None:
        self.counts: Counter[str] = Counter()
        self._decoders = decoders
        self._window = window
        self._away_after = away_after
        self._devices: OrderedDict[str, DecodedDevice] = OrderedDict()

    def __iter__(self) -> Iterator[DecodedDevice]:
        return iter(self._devices.values())

    def add(self, gateway: str, advertisement: Advertisement, now: float) -> DecodedDevice | None:
        """Take an advertisement; return the device if its values, its presence or its nearest gateway changed."""
        device = self._devices.get(advertisement.mac_address) or DecodedDevice(advertisement.mac_address)
        content = _content(advertisement)
        changed = False
        if content == device.content and now - device.content_time <= self._window:
            self.counts["duplicate"] += 1
        else:
            reading = self._decoders.decode(advertisement)
            if not device.values and (reading is None or not reading.values):
                self.counts["without values"] += 1
                return None
            changed = reading is not None and device.update(reading)
            device.content, device.content_time = content, now
            self.counts["decoded"] += 1
        self._keep(device)
        device.hear(gateway, advertisement.rssi, now)
        nearest = device.find_nearest(now)
        changed = changed or not device.home or nearest != device.nearest
        device.nearest, device.home = nearest, True
        return device if changed else None

    def expire(self, now: float) -> list[DecodedDevice]:
        """Return the devices that were home and are silent for too long; they are away now."""
        gone = [device for device in self._devices.values() if device.home and now - device.last > self._away_after]
        for device in gone:
            device.home = False
        return gone

    def _keep(self, device: DecodedDevice) -> None:
        self._devices[device.mac_address] = device
        self._devices.move_to_end(device.mac_address)
        if len(self._devices) > KEPT:
            self._devices.popitem(last=False)


def _content(advertisement: Advertisement) -> tuple[object, ...]:
    return (advertisement.manufacturer_data, advertisement.service_data, advertisement.local_name)
