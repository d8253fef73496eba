"""A simulated Sparkplug edge node. It has its own encoder, written from tahu's sparkplug_b.proto."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

INT8, INT16, INT32, INT64, UINT8, UINT16, UINT32, UINT64 = range(1, 9)
FLOAT, DOUBLE, BOOLEAN, STRING, DATE_TIME, TEXT, UUID, DATA_SET, BYTES = range(9, 18)
_FIELDS = {FLOAT: 12, DOUBLE: 13, BOOLEAN: 14, STRING: 15, TEXT: 15, UUID: 15, DATA_SET: 17, BYTES: 16}
_LONG = {INT64, UINT64, DATE_TIME}


def varint(number: int) -> bytes:
    """Encode a number of 64 bits."""
    number &= 2**64 - 1
    found = bytearray()
    while number > 127:
        found.append(number & 127 | 128)
        number >>= 7
    return bytes((*found, number))


def number_field(number: int, value: int) -> bytes:
    """Encode a field that is a number."""
    return varint(number << 3) + varint(value)


def bytes_field(number: int, value: bytes) -> bytes:
    """Encode a field that is text, bytes or a message."""
    return varint(number << 3 | 2) + varint(len(value)) + value


def value_field(datatype: int, value: object) -> bytes:
    """Encode a metric's value."""
    if datatype == FLOAT:
        return varint(12 << 3 | 5) + struct.pack("<f", value)
    if datatype == DOUBLE:
        return varint(13 << 3 | 1) + struct.pack("<d", value)
    if isinstance(value, str | bytes):
        return bytes_field(_FIELDS[datatype], value.encode() if isinstance(value, str) else value)
    assert isinstance(value, int)
    if datatype in _LONG:
        return number_field(11, value)
    return number_field(_FIELDS.get(datatype, 10), value if datatype == BOOLEAN else value & 2**32 - 1)


def metric(
    name: str = "",
    datatype: int = 0,
    value: object = None,
    *,
    alias: int | None = None,
    timestamp: int = 0,
    historical: bool = False,
    carry_type: bool = True,
) -> bytes:
    """Encode a metric; a value of None is null. `carry_type` is False for data, which need not repeat the type."""
    found = bytes_field(1, name.encode()) if name else b""
    found += number_field(2, alias) if alias is not None else b""
    found += number_field(3, timestamp) if timestamp else b""
    found += number_field(4, datatype) if carry_type else b""
    found += number_field(5, 1) if historical else b""
    return found + (number_field(7, 1) if value is None else value_field(datatype, value))


def payload(metrics: Sequence[bytes], *, seq: int | None = 0, timestamp: int | None = None) -> bytes:
    """Encode a payload; the time stamp is now unless it is given; 0 means none."""
    now = time.time_ns() // 1_000_000 if timestamp is None else timestamp
    found = number_field(1, now) if now else b""
    found += b"".join(bytes_field(2, each) for each in metrics)
    return found + (number_field(3, seq) if seq is not None else b"")


@dataclass
class EdgeNode:
    """Publishes births, data and deaths of one node through `publish`, which takes topic and payload."""

    publish: Callable[[str, bytes], object]
    group: str
    node: str = "edge-1"
    seq: int = 0
    bd_seq: int = 0
    aliases: dict[tuple[str, str], tuple[int, int]] = field(default_factory=dict)
    """Alias and type by device and name."""
    first_alias: int = 0

    def birth(self, metrics: Mapping[str, tuple[int, object]], device: str = "", timestamp: int | None = None) -> None:
        """Publish NBIRTH, or DBIRTH for a device: type and value by name."""
        if not device:
            self.seq = 0
            self.aliases.clear()
        encoded = [] if device else [metric("bdSeq", INT64, self.bd_seq)]
        for name, (datatype, value) in metrics.items():
            alias = self.first_alias + len(self.aliases)
            self.aliases[device, name] = alias, datatype
            encoded.append(metric(name, datatype, value, alias=alias))
        self._send("BIRTH", device, encoded, timestamp)

    def data(self, values: Mapping[str, object], device: str = "", timestamp: int | None = None) -> None:
        """Publish NDATA or DDATA with aliases only: value by name."""
        encoded = []
        for name, value in values.items():
            alias, datatype = self.aliases[device, name]
            encoded.append(metric("", datatype, value, alias=alias, carry_type=False))
        self._send("DATA", device, encoded, timestamp)

    def death(self, device: str = "") -> None:
        """Publish NDEATH or DDEATH."""
        if device:
            self._send("DEATH", device, [], None)
        else:
            self.publish(self.topic("DEATH"), payload([metric("bdSeq", INT64, self.bd_seq)], seq=None))

    def topic(self, kind: str, device: str = "") -> str:
        """Return the topic of a message of the node or a device."""
        last = f"{self.node}/{device}" if device else self.node
        return f"spBv1.0/{self.group}/{'D' if device else 'N'}{kind}/{last}"

    def _send(self, kind: str, device: str, metrics: Sequence[bytes], timestamp: int | None) -> None:
        self.publish(self.topic(kind, device), payload(metrics, seq=self.seq, timestamp=timestamp))
        self.seq = (self.seq + 1) % 256
