"""Bytes from the broker -> messages and acknowledgements, a whole read at a time. Pure.

What is common and plain is parsed here: PUBLISH at QoS 0 and 1, and PUBACK of a publish of ours. Everything
else, and everything malformed, is left to paho packet by packet, so that its checks stay the only ones.
"""

from __future__ import annotations

from collections.abc import Callable, Container
from itertools import repeat

from mqttkit.client.packets.reason_codes import DENIED
from mqttkit.client.sending.outbox import MAX_FAST_MID
from mqttkit.messages import Message, Properties

MAX_CACHED_TOPICS = 16_384
"""Topic names kept decoded; more at a time and the cache begins again."""
MAX_CACHED_TOPIC_BYTES = 512
"""Bytes of the longest of them."""
MAX_CACHED_BYTES = 2 * 1024 * 1024
"""Bytes of all of them."""
MAX_CACHED_PROPERTIES = 1_024
"""Property sections kept decoded, each of at most MAX_CACHED_PROPERTY_BYTES."""
MAX_CACHED_PROPERTY_BYTES = 256
PUBACK_CODES = frozenset({0x00, 0x10})
"""Reason codes of a PUBACK below DENIED (MQTT 5, 3.4.2.1)."""

_FLAGS = {first: (first >> 1 & 1, first & 1 == 1, first & 8 == 8) for first in range(0x30, 0x40)}
"""QoS, retain and DUP by the first byte of a PUBLISH of QoS 0 or 1."""
MessageFields = tuple[str, bytes, int, bool, bool, int, Properties | None, int]
"""What a Message consists of."""


class Splitter:
    """Parse packets in one loop; `messages`, `delivered` and `acknowledged` collect what was found."""

    def __init__(
        self,
        awaited: Container[int],
        decode_properties: Callable[[bytes], Properties | None],
        *,
        plain: bool = False,
    ) -> None:
        """If `plain`, messages are tuples with the fields of Message but not their names, which are quicker to make."""
        self.messages: list[Message] = []
        """In the order received."""
        self.delivered: list[bytes] = []
        """The two bytes of the packet identifier of each QoS 1 message."""
        self.acknowledged: list[tuple[int, int]] = []
        """Packet identifier and reason code of each PUBACK that was awaited."""
        self._plain = plain
        self._awaited = awaited
        self._decode_properties = decode_properties
        self._topics: dict[bytes, str] = {}
        self._topic_bytes = 0
        self._properties: dict[bytes, Properties] = {}

    def split(self, data: bytes, position: int, *, v5: bool, epoch: int) -> tuple[int, int]:
        """Parse from `position` to the first packet for paho; return its beginning and its end.

        An end beyond `data` means that this many bytes are needed at least; (len, len) that all was parsed.
        """
        found: list[MessageFields] = []
        end = self._split(data, position, v5, epoch, found)
        if self._plain:
            self.messages += found  # type: ignore[arg-type]  # all that plain readers use are the places
        else:
            self.messages += map(tuple.__new__, repeat(Message), found)
        return end

    def _split(self, data: bytes, position: int, v5: bool, epoch: int, found: list[MessageFields]) -> tuple[int, int]:
        end = len(data)
        topics, append, extra = self._topics, found.append, 1 if v5 else 0
        while position + 1 < end:
            first, length, start = data[position], data[position + 1], position + 2
            if length > 127:
                if start < end and data[start] < 128:  # two bytes: up to 16,383
                    length += (data[start] << 7) - 128
                    start += 1
                else:
                    start, length = remaining_length(data, position)
            stop = start + length
            if stop > end or first & 0xF4 != 0x30:
                if stop <= end and first == 0x40 and self._puback(data, start, length, v5):
                    position = stop
                    continue
                return position, stop
            body = start + 2 + (data[start] << 8) + data[start + 1] if length > 2 else stop + 1
            after = body + (first & 2) + extra
            if after > stop or body == start + 2:
                return position, stop
            raw = data[start + 2 : body]
            topic = topics.get(raw) or self._decode_topic(raw)
            properties = None
            if v5 and data[after - 1]:
                after, properties = self._find_properties(data, after - 1, stop)
                if properties is None:
                    return position, stop
            if first & 2:
                self.delivered.append(data[body : body + 2])
                mid = data[body] << 8 | data[body + 1]
                append((topic, data[after:stop], *_FLAGS[first], mid, properties, epoch))
            elif first == 0x30:
                append((topic, data[after:stop], 0, False, False, 0, properties, epoch))
            else:
                append((topic, data[after:stop], *_FLAGS[first], 0, properties, epoch))
            position = stop
        return (position, position) if position == end else (position, end + 1)

    def _puback(self, data: bytes, start: int, length: int, v5: bool) -> bool:
        """Record an awaited PUBACK of two or three bytes; return whether it was one."""
        if length != 2 and not (length == 3 and v5 and (data[start + 2] in PUBACK_CODES or data[start + 2] >= DENIED)):
            return False
        mid = data[start] << 8 | data[start + 1]
        if mid > MAX_FAST_MID or mid not in self._awaited:  # paho's own publishes have QoS 2
            return False
        self.acknowledged.append((mid, data[start + 2] if length == 3 else 0))
        return True

    def _decode_topic(self, raw: bytes) -> str:
        """Decode a topic name; bytes that are not UTF-8 become lone surrogates (PEP 383)."""
        topic = raw.decode("utf-8", "surrogateescape")
        if len(raw) <= MAX_CACHED_TOPIC_BYTES:
            self._topic_bytes += len(raw)
            if len(self._topics) >= MAX_CACHED_TOPICS or self._topic_bytes > MAX_CACHED_BYTES:
                self._topics.clear()
                self._topic_bytes = len(raw)
            self._topics[raw] = topic
        return topic

    def _find_properties(self, data: bytes, start: int, stop: int) -> tuple[int, Properties | None]:
        """Return where the payload begins and the properties; None if paho must judge them."""
        body, length = remaining_length(data, start - 1)
        after = body + length
        raw = data[start:after]
        if after > stop:
            return stop, None
        known = self._properties.get(raw)
        if known is not None:
            return after, known
        decoded = self._decode_properties(raw)
        if decoded is not None and len(raw) <= MAX_CACHED_PROPERTY_BYTES:
            if len(self._properties) >= MAX_CACHED_PROPERTIES:
                self._properties.clear()
            self._properties[raw] = decoded
        return after, decoded


def remaining_length(data: bytes, position: int) -> tuple[int, int]:
    """Decode the variable byte integer behind data[position]; return its end and its value (1.5.5).

    If bytes are missing, end + value is beyond `data`. A fifth byte is malformed: once it is there the six
    bytes up to it are returned as if they were a packet, for paho to refuse.
    """
    value = 0
    for index in range(4):
        place = position + 1 + index
        if place >= len(data):
            return place, 1
        value |= (data[place] & 127) << 7 * index
        if data[place] < 128:
            return place + 1, value
    return position + 6, 0


def packet_end(data: bytes, position: int) -> int:
    """Return where the packet at `position` ends; beyond `data` if bytes are missing."""
    if position + 1 >= len(data):
        return len(data) + 1 if position < len(data) else position
    start, length = remaining_length(data, position)
    return start + length
