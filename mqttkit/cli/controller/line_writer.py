"""Writes JSON lines to stdout and stays able to stop when no program reads them."""

from __future__ import annotations

import io
import json
import os
import select
import sys
from collections.abc import Iterable, Mapping
from typing import Any

GRACE_SECONDS = 1.0
"""How long a reader may take for the rest of a line after `stop`."""
_CHUNK = 4_096
"""A pipe that poll() reports as writable takes this many bytes without blocking (POSIX: PIPE_BUF)."""


class LineWriter:
    """One thread writes; any thread or signal handler may call `stop`."""

    def __init__(self) -> None:
        self._wake, self._alarm = os.pipe()
        self._stopped = False
        try:
            self._descriptor: int | None = sys.stdout.fileno()
        except (io.UnsupportedOperation, OSError):  # stdout was replaced by an object in memory
            self._descriptor = None

    def stop(self) -> None:
        """Release a write that waits for the reader, after a second."""
        os.write(self._alarm, b"x")

    def close(self) -> None:
        """Release the descriptors."""
        os.close(self._wake)
        os.close(self._alarm)

    def write_all(self, events: Iterable[Mapping[str, Any]]) -> None:
        """Write each event as a line, until the events end or a write is released by `stop`."""
        for event in events:
            text = json.dumps(event) + "\n"
            if self._descriptor is None:
                sys.stdout.write(text)
                sys.stdout.flush()
            elif not self._write(self._descriptor, memoryview(text.encode())):
                return

    def _write(self, descriptor: int, rest: memoryview) -> bool:
        waiting = select.poll()
        waiting.register(descriptor, select.POLLOUT)
        if not self._stopped:
            waiting.register(self._wake, select.POLLIN)
        while rest:
            ready = dict(waiting.poll(GRACE_SECONDS * 1_000 if self._stopped else None))
            if descriptor in ready:
                rest = rest[os.write(descriptor, rest[:_CHUNK]) :]
            elif self._wake in ready:
                self._stopped = True
                waiting.unregister(self._wake)
            else:
                return False
        return True
