"""LE Advertising Reports of a Bluetooth controller (Bluetooth Core 5.4, Vol 4, Part E, 7.7.65). Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from struct import Struct
from typing import Any

from mqttkit.errors import AdvertisementError
from mqttkit.scanner.advertisement import Advertisement

_EVENT = 0x04
"""H4 packet type of an event (Vol 4, Part A, 2)."""
_LE_META = 0x3E
_LEGACY = 0x02
_EXTENDED = 0x0D
_ANONYMOUS = 0xFF

_LEGACY_HEAD = Struct("<BB6sB")
"""Event type, address type, address, data length; data and RSSI follow (7.7.65.2)."""
_EXTENDED_HEAD = Struct("<HB6sBBBbbHB6sB")
"""Event type, address type, address, primary and secondary PHY, SID, transmit power, RSSI, periodic interval,
direct address type, direct address, data length; data follow (7.7.65.13)."""

_CONNECTABLE = {0: True, 1: True, 2: False, 3: False}
"""By legacy event type; a scan response (4) does not contain it."""

LONGEST_DATA = 1650
"""Size limit of one extended advertisement in bytes, all fragments together."""
MOST_FRAGMENTED = 256
"""Devices whose fragments are kept at the same time."""


@dataclass(frozen=True)
class AdvertisingReport:
    """One report of an event, legacy or extended."""

    mac_address: str | None
    """None if the advertisement is anonymous."""
    address_type: str
    rssi: int
    connectable: bool | None
    data: bytes
    sid: int = _ANONYMOUS
    """Advertising SID; it identifies one advertising set of the device."""
    status: int = 0
    """Data status: 0 complete, 1 more fragments follow, 2 truncated by the controller."""


class Reassembly:
    """Joins the fragments of extended advertisements, of at most MOST_FRAGMENTED devices."""

    def __init__(self) -> None:
        self._parts: dict[tuple[str | None, int], bytes] = {}

    def join(self, report: AdvertisingReport) -> bytes | None:
        """Return the complete data of the advertisement, or None if more fragments follow."""
        key = (report.mac_address, report.sid)
        data = self._parts.pop(key, b"") + report.data
        if report.status != 1 or len(data) > LONGEST_DATA:
            return data[:LONGEST_DATA]
        if len(self._parts) >= MOST_FRAGMENTED:
            self._parts.pop(next(iter(self._parts)))
        self._parts[key] = data
        return None


def read_packet(packet: bytes, timestamp: float, reassembly: Reassembly) -> Iterator[Advertisement]:
    """Yield the advertisements of one H4 packet; a packet of another kind has none. Raise AdvertisementError.

    Anonymous advertisements have no address and are skipped.
    """
    if len(packet) < 4 or packet[0] != _EVENT or packet[1] != _LE_META or packet[3] not in (_LEGACY, _EXTENDED):
        return
    if len(packet) == 4:
        raise AdvertisementError("an event contains no reports")
    if packet[2] != len(packet) - 3:
        raise AdvertisementError(f"an event announces {packet[2]} bytes and contains {len(packet) - 3}")
    reports = _legacy_reports(packet) if packet[3] == _LEGACY else _extended_reports(packet)
    for report in reports:
        data = reassembly.join(report)
        if data is not None and report.mac_address is not None:
            yield Advertisement.from_raw(
                data,
                mac_address=report.mac_address,
                address_type=report.address_type,
                rssi=report.rssi,
                timestamp=timestamp,
                connectable=report.connectable,
            )


def _legacy_reports(packet: bytes) -> Iterator[AdvertisingReport]:
    position = 5
    for _ in range(packet[4]):
        kind, address_type, address, length = _unpack(_LEGACY_HEAD, packet, position)
        position += _LEGACY_HEAD.size
        data = _slice(packet, position, length + 1)
        position += length + 1
        yield AdvertisingReport(
            mac_address=mac_text(address),
            address_type=_type_name(address_type),
            rssi=_signed(data[-1]),
            connectable=_CONNECTABLE.get(kind),
            data=data[:-1],
        )


def _extended_reports(packet: bytes) -> Iterator[AdvertisingReport]:
    position = 5
    for _ in range(packet[4]):
        head = _unpack(_EXTENDED_HEAD, packet, position)
        kind, address_type, address, sid, rssi, length = (head[index] for index in (0, 1, 2, 5, 7, 11))
        position += _EXTENDED_HEAD.size
        yield AdvertisingReport(
            mac_address=None if address_type == _ANONYMOUS else mac_text(address),
            address_type=_type_name(address_type),
            rssi=rssi,
            connectable=bool(kind & 1),
            data=_slice(packet, position, length),
            sid=sid,
            status=kind >> 5 & 3,
        )
        position += length


def mac_text(address: bytes) -> str:
    """Return six little-endian bytes as `AA:BB:CC:DD:EE:FF`."""
    return address[::-1].hex(":").upper()


def _type_name(address_type: int) -> str:
    """Return `public` or `random`; identity addresses (2, 3) have the same two types."""
    return "random" if address_type & 1 else "public"


def _unpack(head: Struct, packet: bytes, position: int) -> tuple[Any, ...]:
    return head.unpack(_slice(packet, position, head.size))


def _slice(packet: bytes, position: int, length: int) -> bytes:
    if position + length > len(packet):
        raise AdvertisementError("a report is truncated")
    return packet[position : position + length]


def _signed(byte: int) -> int:
    return byte - 256 if byte > 127 else byte
