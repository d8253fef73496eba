"""The reports for which a local controller has no receipt yet, in a file that survives a restart.

The file is a journal of JSON lines: `["+", message_id, topic, envelope]` adds a message, `["-", message_id, …]` removes
messages. An incomplete last line, which a crash leaves, does not count.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Sequence
from pathlib import Path

from mqttkit.errors import StoreFailed

log = logging.getLogger(__name__)

COMPACT_BYTES = 4_000_000
"""The journal is written again without the removed messages when it is longer than this and twice what it must be."""


class ReportOutbox:
    """Messages to send, oldest first. Any thread may call the methods; they raise StoreFailed if the file fails.

    `add` gives the message to the operating system before it returns, so the end of the process loses nothing. The
    file is not synchronized at each message: a power failure can lose those of the last seconds.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._lines: dict[str, bytes] = {}
        """The line of each message that is not removed."""
        self._size = self._needed = 0
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._read()
            self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            self._compact()
        except OSError as error:
            raise StoreFailed(f"cannot open the outbox {path}: {error}") from error

    def add(self, message_id: str, topic: str, envelope: bytes) -> None:
        """Keep a message; `envelope` is JSON."""
        line = b'["+",%b,%b,%b]\n' % (json.dumps(message_id).encode(), json.dumps(topic).encode(), envelope)
        with self._lock:
            self._append(line)
            self._lines[message_id] = line
            self._needed += len(line)

    def remove(self, message_ids: Sequence[str]) -> None:
        """Delete the messages with these identifiers."""
        with self._lock:
            for one in message_ids:
                self._needed -= len(self._lines.pop(one, b""))
            self._append(json.dumps(["-", *message_ids]).encode() + b"\n")
            if self._size > max(COMPACT_BYTES, 2 * self._needed):
                self._compact()

    def load(self) -> list[tuple[str, bytes]]:
        """Return topic and envelope of each message, oldest first."""
        with self._lock:
            entries = [json.loads(line) for line in self._lines.values()]
        return [(topic, json.dumps(envelope, ensure_ascii=False).encode()) for _, _, topic, envelope in entries]

    def close(self) -> None:
        """Close the file; what it contains stays for the next start. Idempotent."""
        with self._lock:
            descriptor, self._file = self._file, -1
            if descriptor >= 0:
                os.close(descriptor)

    def _append(self, line: bytes) -> None:
        try:
            written = os.write(self._file, line)
        except OSError as error:
            raise StoreFailed(f"cannot write the outbox {self._path}: {error}") from error
        self._size += written
        if written != len(line):
            os.write(self._file, b"\n")  # the next line starts on its own
            raise StoreFailed(f"cannot write the outbox {self._path}: the disk is full")

    def _read(self) -> None:
        data = self._path.read_bytes() if self._path.exists() else b""
        for line in data.splitlines(keepends=True):
            try:
                mark, *rest = json.loads(line)
                if mark == "+":
                    message_id, _topic, _envelope = rest
                    self._lines[str(message_id)] = line.rstrip(b"\n") + b"\n"
                else:
                    for one in rest:
                        self._lines.pop(one, None)
            except (ValueError, TypeError) as error:
                log.warning("an incomplete line of the outbox %s is skipped: %s", self._path, error)

    def _compact(self) -> None:
        """Replace the journal by one that contains only the messages that are not removed."""
        data = b"".join(self._lines.values())
        fresh = self._path.with_name(f"{self._path.name}.new")
        try:
            descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600)
            with open(descriptor, "wb", closefd=False) as stream:
                stream.write(data)
            os.fsync(descriptor)
            fresh.replace(self._path)
        except OSError as error:
            raise StoreFailed(f"cannot write the outbox {fresh}: {error}") from error
        os.close(self._file)
        self._file, self._size, self._needed = descriptor, len(data), len(data)
