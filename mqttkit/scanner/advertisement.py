"""One advertisement, and the parsing of its AD structures. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Advertisement:
    """One advertisement as a scanner heard it (Bluetooth Core 5.4, Vol 6, Part B, 2.3.1)."""

    mac_address: str
    """`AA:BB:CC:DD:EE:FF`, upper case."""
    address_type: str = "public"
    """`public` or `random`."""
    rssi: int | None = None
    """Received signal strength, dBm; None where the radio did not say (127 on the wire)."""
    timestamp: float
    """When it was heard: seconds since 1970-01-01 UTC."""
    local_name: str | None = None
    """Complete or shortened local name; bytes that are not UTF-8 are replaced by U+FFFD."""
    manufacturer_data: dict[int, tuple[bytes, ...]] = field(default_factory=dict)
    """Company identifier to its data without the identifier, each field kept, in the order heard."""
    service_data: dict[str, bytes] = field(default_factory=dict)
    """128-bit service UUID, lower case, to its data."""
    service_uuids: tuple[str, ...] = ()
    """128-bit, lower case, in the order heard."""
    tx_power: int | None = None
    """Transmit power level, dBm."""
    connectable: bool | None = None
    """None where the source does not tell."""
    raw: bytes | None = None
    """The AD structures as they went over the air, where the source has them."""
