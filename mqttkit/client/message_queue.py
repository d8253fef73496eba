"""A bounded queue of received messages, from the network thread to the thread that reads them."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import NamedTuple

from mqttkit.messages import Message, Properties

MAX_MESSAGES = 100_000
MAX_BYTES = 64 * 1024 * 1024
"""Bytes of topic names, payloads and properties that may wait."""
OVERFULL = 4
"""At this multiple of the bounds nothing more is read, even if somebody awaits an answer."""
PROPERTIES_BYTES = 64
"""Bytes that properties take in addition to their texts."""
NO_LIMIT = 1 << 62
_TOPIC, _PAYLOAD, _RETAIN, _PROPERTIES = (
    itemgetter(Message._fields.index(name)) for name in ("topic", "payload", "retain", "properties")
)
"""By place: the messages of a plain subscriber have no names."""


class MessageBatch(NamedTuple):
    """Messages that arrived in one read."""

    messages: Sequence[Message]
    received_at: int
    """Nanoseconds since 1970-01-01 UTC."""
    size: int = 0
    """Bytes that the batch counts against the bound of its queue."""


class MessageQueue:
    """Batches on their way to the reader, bounded in messages and in bytes.

    The queue calls `hold(1)` when it is full: the client then reads only while somebody awaits an answer, such as a
    SUBACK or a PUBACK, which lies behind other messages. It calls `hold(2)` at OVERFULL times its bounds, and
    `hold(0)` when it is half empty again.
    """

    def __init__(self, hold: Callable[[int], None], *, messages: int = MAX_MESSAGES, size: int = MAX_BYTES) -> None:
        self.max_messages = messages
        self.max_bytes = size
        self.retained = 0
        """Retained messages received so far."""
        self.ended = False
        """True once the connection is closed for good and nothing more arrives."""
        self.error: Exception | None = None
        """Why it ended, if it did not end well."""
        self._hold = hold
        self._held = 0
        self._has_reader = False
        self._messages = self._bytes = 0
        self._lock = threading.Lock()
        self._batches: queue.SimpleQueue[MessageBatch | None] = queue.SimpleQueue()

    @property
    def has_reader(self) -> bool:
        """True once somebody has called `get`."""
        return self._has_reader

    @property
    def empty(self) -> bool:
        """True if no message waits."""
        return self._batches.empty()

    def put(self, messages: list[Message]) -> None:
        """Add a batch. Never blocks; only the network thread may call it."""
        size = sum(map(len, map(_TOPIC, messages))) + sum(map(len, map(_PAYLOAD, messages)))
        size += sum([_weight(found) for found in map(_PROPERTIES, messages) if found is not None])
        self._batches.put(MessageBatch(messages, time.time_ns(), size))
        self.retained += sum(map(_RETAIN, messages))
        self._count(len(messages), size)

    def get(self, timeout: float | None = None) -> MessageBatch | None:
        """Return the next batch; None after `timeout` seconds, after a `wake`, or if the queue has ended."""
        self._has_reader = True
        try:
            batch = self._batches.get(block=not (self.ended and self._batches.empty()), timeout=timeout)
        except queue.Empty:
            return None
        if batch is not None:
            self._count(-len(batch.messages), -batch.size)
        return batch

    def wake(self) -> None:
        """Make one `get` return None. Never blocks; signal handlers may call it."""
        self._batches.put(None)

    def end(self, error: Exception | None = None) -> None:
        """Nothing more arrives: readers get what is queued, then None. The first `error` is kept."""
        self.error = self.error or error
        self.ended = True
        self.wake()

    def _count(self, messages: int, size: int) -> None:
        with self._lock:
            self._messages += messages
            self._bytes += size
            level = self._level()
            if level != self._held:
                self._held = level
                self._hold(level)

    def _level(self) -> int:
        share = max(self._messages / self.max_messages, self._bytes / self.max_bytes)
        if share >= OVERFULL:
            return 2
        return 1 if share >= (0.5 if self._held else 1) else 0


def _weight(properties: Properties) -> int:
    """Return about how many bytes properties take."""
    texts = (properties.content_type, properties.response_topic, properties.correlation_data)
    size = sum(len(text) for text in texts if text) + sum(len(n) + len(v) for n, v in properties.user_properties)
    return size + PROPERTIES_BYTES * (1 + len(properties.user_properties) + len(properties.subscription_identifiers))
