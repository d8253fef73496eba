"""Metrics as lines of JSON in files that are rotated; each batch is on disk before it is acknowledged.

A line counts once the ledger knows the file's length behind it. What a crash left beyond that length is cut
off when the file is opened again: those metrics were not acknowledged, and come again.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from mqttkit.bridge.json_record import encode_json, json_record
from mqttkit.bridge.sinks.ledger import Ledger
from mqttkit.bridge.sinks.types import Committed, DeadLetterStore, MetricBatch, SinkOptions
from mqttkit.errors import SinkBroken, SinkUnavailable

ROTATE_BYTES = 100_000_000
"""Length from which on a file is renamed to PATH.YYYYmmddTHHMMSSZ-N and a new one begun; none is deleted."""


class JsonlSink:
    """One file, and PATH.ledger.db beside it."""

    def __init__(self, path: str, options: SinkOptions, *, rotate_bytes: int = ROTATE_BYTES) -> None:
        self.path = Path(path.removeprefix("//")).expanduser()
        self.name = f"jsonl:{self.path}"
        self._options = options
        self._rotate_bytes = rotate_bytes
        self._file = -1
        self._length = 0
        self._ledger: Ledger | None = None

    @property
    def letters(self) -> DeadLetterStore:
        """The ledger's; the lines' file is not opened for them."""
        return self._book().letters

    def open(self) -> None:
        """Open file and ledger, and cut off what was never committed."""
        if not self.path.parent.is_dir():
            raise SinkBroken(f"no directory {self.path.parent}", hint=f"mkdir -p {self.path.parent}")
        self._open_file(self._book().value("length"))

    def open_letters(self) -> None:
        """Open the ledger."""
        self._book()

    def probe(self) -> None:
        """See that the file is still there, and the ledger writable."""
        self._ready().probe()
        if not self.path.exists():
            self.close()
            raise SinkUnavailable(f"{self.path} was moved or removed: beginning a new one")

    def commit(self, batch: MetricBatch) -> Committed:
        """Append lines, bring them to disk, then commit the ledger; take the lines back if that fails."""
        ledger = self._ready()
        if self._length >= self._rotate_bytes:
            self._rotate()
        fresh = ledger.new(batch.metrics)
        data = b"".join(encode_json(json_record(metric)) + b"\n" for metric in fresh)
        length = self._length + len(data)
        try:
            with self._translated():
                self._append(data)
            ledger.commit(fresh, batch.letters, batch.settles, length=length)
        except BaseException:
            with contextlib.suppress(OSError):  # else `open` cuts it off
                os.ftruncate(self._file, self._length)
            raise
        self._length = length
        return Committed(len(fresh), len(batch.metrics) - len(fresh))

    def close(self) -> None:
        """Close file and ledger."""
        if self._ledger is not None:
            self._ledger.close()
            self._ledger = None
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _book(self) -> Ledger:
        if self._ledger is None:
            self._ledger = Ledger(self._options.dead_letters or f"{self.path}.ledger.db", self._options)
        return self._ledger

    def _append(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self._file, view) :]
        if data:
            os.fdatasync(self._file)

    def _open_file(self, length: int) -> None:
        with self._translated():
            self._file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise SinkBroken(f"another process writes to {self.path}", hint="Name another file") from error
            found = os.fstat(self._file).st_size
            if found > length:
                os.ftruncate(self._file, length)
            self._length = min(found, length)  # shorter: it was moved away
            self._sync_directory()

    def _rotate(self) -> None:
        """Rename the file; a crash before the next commit leaves a new file shorter than the ledger says."""
        stem = f"{self.path.name}.{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}"
        number = 0
        while (target := self.path.with_name(f"{stem}-{number}")).exists():
            number += 1
        with self._translated():
            self.path.rename(target)
            os.close(self._file)
        self._file = -1
        self._book().commit((), (), (), length=0)
        self._open_file(0)

    def _sync_directory(self) -> None:
        directory = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def _ready(self) -> Ledger:
        if self._file < 0:
            self.open()
        return self._book()

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise SinkUnavailable(f"{self.path}: {error.strerror or error}") from error
