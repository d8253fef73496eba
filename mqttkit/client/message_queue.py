"""A bounded queue of received messages, from the network thread to the thread that reads them."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from mqttkit.messages import Message

MAX_MESSAGES = 100_000
MAX_BYTES = 64 * 1024 * 1024
"""Payload bytes that may wait."""
NO_LIMIT = 1 << 62


class MessageBatch(NamedTuple):
    """Messages that arrived in one read."""

    messages: Sequence[Message]
    received_at: int
    """Nanoseconds since 1970-01-01 UTC."""


class MessageQueue:
    """Batches on their way to the reader, bounded in messages and in payload bytes.

    Once a reader has called `get`, the queue calls `pause(True)` when it is full and `pause(False)` when it is half
    empty again. Before the first `get` it does not pause: the client could not read the SUBACK.
    """

    def __init__(self, pause: Callable[[bool], None], *, messages: int = MAX_MESSAGES, size: int = MAX_BYTES) -> None:
        self.max_messages = messages
        self.max_bytes = size
        self.retained = 0
        """Retained messages received so far."""
        self.ended = False
        """True once the connection is closed for good and nothing more arrives."""
        self.error: Exception | None = None
        """Why it ended, if it did not end well."""
        self._pause = pause
        self._paused = self._has_reader = False
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
        self._batches.put(MessageBatch(messages, time.time_ns()))
        self.retained += sum([message.retain for message in messages])
        self._count(len(messages), sum([len(message.payload) for message in messages]))

    def get(self, timeout: float | None = None) -> MessageBatch | None:
        """Return the next batch; None after `timeout` seconds, after a `wake`, or if the queue has ended."""
        self._has_reader = True
        try:
            batch = self._batches.get(block=not (self.ended and self._batches.empty()), timeout=timeout)
        except queue.Empty:
            return None
        if batch is not None:
            self._count(-len(batch.messages), -sum([len(message.payload) for message in batch.messages]))
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
            bound = 2 if self._paused else 1
            full = self._messages * bound >= self.max_messages or self._bytes * bound >= self.max_bytes
            if full != self._paused and self._has_reader:
                self._paused = full
                self._pause(full)
