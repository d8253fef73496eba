"""Publishes encoded and joined for one send. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, repeat

from mqttkit.client.sending.block import BlockReceipt, BlockSlice
from mqttkit.client.sending.receipt import Receipt

BATCH_BYTES = 256 * 1024
"""A batch ends before the packet that would make it larger than this."""
MAX_CACHED_LENGTHS = 4_096


class PacketBatch:
    """Packets joined for one send."""

    __slots__ = ("data", "items", "parts", "slices", "zeros")

    def __init__(self) -> None:
        self.items: list[Receipt | None] = []
        """The publish that each part is of; None for acknowledgements and for the messages of blocks."""
        self.parts: list[bytes] = []
        self.zeros = 0
        """How many of the items are QoS 0."""
        self.slices: list[tuple[int, BlockSlice]] = []
        """Messages of blocks at QoS 0, each of two parts, and the number of the first part."""
        self.data = b""

    def join(self) -> PacketBatch:
        """Join the parts, without a copy if there is only one."""
        self.data = self.parts[0] if len(self.parts) == 1 else b"".join(self.parts)
        return self

    def divide(self, sent: int) -> tuple[list[Receipt | BlockSlice], list[Receipt | BlockSlice]]:
        """Return the publishes of QoS 0 that are whole in the first `sent` bytes, and the others, each in order."""
        ends = list(accumulate(map(len, self.parts)))
        whole: list[tuple[int, Receipt | BlockSlice]] = []
        others: list[tuple[int, Receipt | BlockSlice]] = []
        for place, item in enumerate(self.items):
            if item is not None and not item.qos:
                (whole if ends[place] <= sent else others).append((place, item))
        for place, each in self.slices:
            cut = each.start + sum(end <= sent for end in ends[place + 1 : place + 2 * len(each) : 2])
            if cut > each.start:
                whole.append((place, BlockSlice(each.block, each.start, cut)))
            if cut < each.stop:
                others.append((place, BlockSlice(each.block, cut, each.stop)))
        return [item for _, item in sorted(whole, key=_place)], [item for _, item in sorted(others, key=_place)]


def _place(entry: tuple[int, object]) -> int:
    return entry[0]


class PublishEncoder:
    """Encodes PUBLISH packets into batches (MQTT 5, 3.3)."""

    def __init__(self) -> None:
        self._lengths: dict[int, bytes] = {}
        self._prefixes = _Prefixes(b"", 0, self)

    def add(self, batch: PacketBatch, item: Receipt, mid: int, *, v5: bool, dup: bool = False) -> int:
        """Encode a publish into the batch; return its size."""
        first = 0x30 | dup << 3 | item.qos << 1 | item.retain
        middle = (item.properties or b"\0") if v5 else b""
        if mid:
            middle = mid.to_bytes(2, "big") + middle
        length = len(item.topic) + len(middle) + len(item.payload)
        head = self._lengths.get(first << 28 | length) or self.fixed_header(first, length)
        packet = head + item.topic + middle + item.payload
        batch.parts.append(packet)
        batch.items.append(item)
        batch.zeros += not mid
        return len(packet)

    def add_zeros(self, batch: PacketBatch, waiting: BlockSlice, room: int, *, v5: bool) -> int:
        """Encode messages of QoS 0 from the front of a slice, about `room` bytes or one larger one; return their size.

        They leave the slice.
        """
        block, parts, place = waiting.block, batch.parts, len(batch.parts)
        middle = (block.properties or b"\0") if v5 else b""
        prefixes = self._find_prefixes(0x30 | block.retain, block.topic + middle)
        size, least = 0, len(block.topic) + len(middle) + 2
        for payload in block.payloads[waiting.start : min(waiting.stop, waiting.start + room // least + 1)]:
            prefix = prefixes[len(payload)]
            size += len(prefix) + len(payload)
            if size > room and len(parts) > place:
                size -= len(prefix) + len(payload)
                break
            parts.append(prefix)
            parts.append(payload)
        taken = (len(parts) - place) // 2
        batch.items.extend(repeat(None, 2 * taken))
        batch.slices.append((place, BlockSlice(block, waiting.start, waiting.start + taken)))
        waiting.start += taken
        return size

    def add_acknowledged(
        self, batch: PacketBatch, block: BlockReceipt, start: int, mids: Sequence[int], room: int, *, v5: bool
    ) -> tuple[int, int]:
        """Encode messages of QoS 1 from `start`, one for each identifier; return how many, and their size."""
        parts, place, size = batch.parts, len(batch.parts), 0
        properties = (block.properties or b"\0") if v5 else b""
        prefixes = self._find_prefixes(0x32 | block.retain, block.topic, len(properties) + 2)
        for mid, payload in zip(mids, block.payloads[start : start + len(mids)], strict=True):
            prefix = prefixes[len(payload)]
            added = len(prefix) + len(properties) + len(payload) + 2
            if size and size + added > room:
                break
            size += added
            parts += (prefix, mid.to_bytes(2, "big") + properties, payload)
        taken = len(parts) - place
        batch.items.extend(repeat(None, taken))
        return taken // 3, size

    def _find_prefixes(self, first: int, name: bytes, more: int = 0) -> _Prefixes:
        """Return the prefixes of a block; those of the block before if they are the same."""
        if not self._prefixes.fits(name, first, more):
            self._prefixes = _Prefixes(name, first, self, more)
        return self._prefixes

    def fixed_header(self, first: int, length: int) -> bytes:
        """Return the fixed header: `first` and the remaining length (MQTT 5, 2.1.4)."""
        head, rest = bytearray((first,)), length
        while rest > 127:
            head.append(rest & 127 | 128)
            rest >>= 7
        head.append(rest)
        if len(self._lengths) >= MAX_CACHED_LENGTHS:
            self._lengths.clear()
        encoded = self._lengths[first << 28 | length] = bytes(head)
        return encoded


class _Prefixes(dict[int, bytes]):
    """What stands before a payload of a block, by the payload's length: fixed header and `name`."""

    def __init__(self, name: bytes, first: int, encoder: PublishEncoder, more: int = 0) -> None:
        """`more` bytes stand between `name` and payload."""
        super().__init__()
        self._name, self._first, self._encoder, self._more = name, first, encoder, more

    def fits(self, name: bytes, first: int, more: int) -> bool:
        """Return whether these are the prefixes of such a block."""
        return self._name == name and self._first == first and self._more == more

    def __missing__(self, length: int) -> bytes:
        if len(self) >= MAX_CACHED_LENGTHS:
            self.clear()
        head = self._encoder.fixed_header(self._first, len(self._name) + self._more + length)
        made = self[length] = head + self._name
        return made
