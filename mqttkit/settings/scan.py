"""The settings of scanning: where advertisements come from, and how they become messages. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from mqttkit.settings.rules import (
    COMPANIES,
    SCANNER_ID,
    SOURCE,
    TOPIC_NAME,
    Checked,
    Count,
    Duration,
    Seconds,
    above,
    between,
    template,
)


@dataclass(frozen=True, kw_only=True)
class ScannerSettings(Checked):
    """Where advertisements come from, and which ones to keep."""

    id: Annotated[str, SCANNER_ID] = "scanner-01"
    """Scanner identifier: one topic level, at most 64 characters."""
    source: Annotated[str, SOURCE] = "auto"
    """`auto`, `bleak`, `bluepy`, `simulated` or `replay:FILE`."""
    adapter: tuple[str, ...] = ()
    """Bluetooth adapters such as hci0, all used at the same time; the first one if it is not set."""
    wait_for_radio: bool = False
    """Wait for the radio at the start, instead of failing."""
    active: bool = False
    """Ask devices for their scan response (Bluetooth Core 5.4, Vol 6, Part B, 4.4.3)."""
    passive: bool = False
    """bleak: only listen. BlueZ then needs its experimental features, and reports advertisements with flags only."""
    speed: Annotated[float | None, above(0, null_word="max")] = 1.0
    """Replay: a multiple of the recorded pace; null or `max` means as fast as possible."""
    loop: bool = False
    """Replay: start again at the end."""
    strict: bool = False
    """Replay: end at an invalid record instead of skipping it."""
    devices: Count = 10
    """Simulated: number of devices."""
    rate: Annotated[float, above(0)] = 20.0
    """Simulated: advertisements per second."""
    seed: int = 0
    """Simulated: seed of the random number generator."""
    identities_file: str | None = None
    """YAML file of known devices: their names, keys, and which ones to drop."""
    min_rssi: Annotated[int | None, between(-127, 20)] = None
    """Keep only advertisements at least this strong, dBm."""
    mac: tuple[str, ...] = ()
    """Keep only these addresses or address prefixes."""
    company: Annotated[tuple[str, ...], COMPANIES] = ()
    """Keep only manufacturer data of these companies: two hex bytes in air order (4c00 is Apple)."""
    service: tuple[str, ...] = ()
    """Keep only these service UUIDs, 16 or 128 bits."""
    name: tuple[str, ...] = ()
    """Keep only local names that match these glob patterns."""
    interval: Duration = 0.0
    """Seconds in which a device counts once unless its data changes; 0 keeps everything."""

    @property
    def unpaced(self) -> bool:
        """True for a replay as fast as possible: it waits for its reader, whereas a radio would lose data."""
        return self.source.startswith("replay:") and self.speed is None


@dataclass(frozen=True, kw_only=True)
class PublisherSettings(Checked):
    """How advertisements become messages."""

    topic: Annotated[str, template("scanner_id", "mac_address")] = "ble/raw/{scanner_id}/{mac_address}"
    """Topic template; {scanner_id} and {mac_address} are filled in."""
    qos: Annotated[int | None, between(0, 2)] = None
    """Quality of service; mqtt.client.qos if it is not set."""
    stats_interval: Seconds = 60.0
    """Seconds between log lines with statistics."""
    status_topic: Annotated[str | None, TOPIC_NAME] = None
    """Topic for a retained `online` or `offline`; none if it is not set."""
    queue_size: Count = 10_000
    """Advertisements that may wait between scanner and client; above this the oldest is dropped."""
    max_age: Seconds = 5.0
    """Seconds after which an advertisement that could not be published is dropped."""
    raw: bool = False
    """Add the AD structures to the payload as `raw_ad`, if the source provides them."""
