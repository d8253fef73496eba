"""What one read gives: messages in a batch, acknowledgements to the outbox, and the other packets one by one.

reader.fill(socket.recv, once=True)
while (packet := reader.next_packet(v5=True, number=1)) is not None:
    ...   # a packet for paho
"""

from __future__ import annotations

import time
from collections.abc import Callable

from mqttkit.client.packets import properties
from mqttkit.client.receiving.read_buffer import ReadBuffer
from mqttkit.client.receiving.read_pacing import ReadPacing
from mqttkit.client.receiving.splitter import Splitter, packet_end
from mqttkit.client.receiving.unexpected import check_size
from mqttkit.client.sending.outbox import Outbox
from mqttkit.messages import Message

READ_BYTES = 256 * 1024
"""One read takes at most this much."""
SMALL_READ_BYTES = 64 * 1024
"""What it takes if the previous read was not full: a larger buffer comes from mmap and costs page faults."""


class BatchReader:
    """Parses the stream of one connection; only the network thread uses it."""

    def __init__(
        self,
        outbox: Outbox,
        deliver: Callable[[list[Message]], None] | None,
        *,
        manual_ack: bool,
        plain: bool = False,
    ) -> None:
        """Without `deliver`, every packet is returned by `next_packet`. `plain` is for the Splitter."""
        self._outbox = outbox
        self._deliver = deliver
        self._manual_ack = manual_ack
        self._buffer = ReadBuffer()
        self._splitter = Splitter(outbox.flights, properties.decode, plain=plain)
        self._pacing = ReadPacing()
        self._data = b""
        self._position = 0
        self._read_bytes = SMALL_READ_BYTES
        self.accepted = False
        """True after a CONNACK that accepts: before it, no message may come."""
        self.received_at = 0.0
        """When bytes last arrived, on the monotonic clock."""

    @property
    def pause(self) -> float:
        """Seconds to wait before the next read, so that a fast stream gathers; 0 if the last read was full."""
        return 0.0 if self._read_bytes == READ_BYTES else self._pacing.pause

    def fill(self, receive: Callable[[int], bytes], *, once: bool) -> bool:
        """Receive: one read if `once`, else until BlockingIOError; return False at the end of the stream.

        Raises what `receive` raises, but for BlockingIOError. TLS and WebSockets hold bytes that poll cannot see.
        """
        room = self._read_bytes if once else READ_BYTES
        while room > 0:
            try:
                chunk = receive(room)
            except BlockingIOError:
                break
            if not chunk:
                return False
            self._buffer.add(chunk)
            self.received_at = time.monotonic()
            room -= len(chunk)
            if once:
                self._read_bytes = SMALL_READ_BYTES if room else READ_BYTES
                break
        return True

    def clear(self) -> None:
        """Drop everything: the connection has ended."""
        self._buffer.clear()
        self._data = b""
        self.accepted = False

    def next_packet(self, *, v5: bool, number: int) -> bytes | None:
        """Deliver messages and acknowledgements up to the next other packet; return that, or None for none.

        `number` is that of the connection, for the messages. Raises UnexpectedPacket for a packet that is too large.
        """
        data = self._data
        if not data:
            data, self._position = self._buffer.take(), 0
            if not data:
                return None
            self._data = data
        if self._deliver is None or not self.accepted:
            start, stop = self._position, packet_end(data, self._position)
        else:
            start, stop = self._splitter.split(data, self._position, v5=v5, epoch=number)
            self._hand_over(self._deliver)
        if not self._data:  # a handler ended the connection
            return None
        if stop > len(data) or start == len(data):
            if start < len(data):
                check_size(data[start], stop - start, self._outbox.limits.max_packet_size)
            self._buffer.put_back(data[start:], stop - start)
            self._data = b""
            return None
        self._position = stop
        if stop == len(data):
            self._data = b""
        return data[start:stop]

    def _hand_over(self, deliver: Callable[[list[Message]], None]) -> None:
        """Pass on what the splitter found, then acknowledge it."""
        found = self._splitter
        if found.acknowledged:
            acknowledged, found.acknowledged = found.acknowledged, []
            self._outbox.acknowledge(acknowledged)
        if found.messages:
            messages, found.messages = found.messages, []
            delivered, found.delivered = found.delivered, []
            self._pacing.record(len(messages), awaited=bool(delivered), now=self.received_at)
            deliver(messages)
            if delivered and not self._manual_ack:
                self._outbox.acknowledgements.append(b"@\2" + b"@\2".join(delivered))
