"""Store metrics as lines of JSON in rotated files. Each batch is on disk before it is acknowledged.

The ledger records which file it belongs to and how long that file is after each commit. Before each commit the sink
truncates the file to that length: the lines beyond it are of a process that died, and were not acknowledged, so the
broker sends them again.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

from mqttkit.bridge.json_record import encode_json, json_record
from mqttkit.bridge.sinks.file_identity import FREE_SPACE, file_changed, identity_of, identity_of_open
from mqttkit.bridge.sinks.ledger import Ledger
from mqttkit.bridge.sinks.types import Committed, DeadLetterStore, MetricBatch, NewMetrics, SinkOptions
from mqttkit.errors import SinkBroken, SinkUnavailable

ROTATE_BYTES = 100_000_000
"""Length in bytes at which a file is renamed to PATH.YYYYmmddTHHMMSSZ-N. No file is ever deleted."""
TAIL_BYTES = 64
"""Bytes at the end of the committed lines by which the sink recognises its own file after a restart."""
LOCK_SECONDS, LOCK_WAIT = 2.0, 0.005
"""How long to wait for another process that commits, and between attempts."""
_POSITIVE = 2**63 - 1  # SQLite's integers are signed


class JsonlSink:
    """One file, and PATH.ledger.db beside it."""

    def __init__(self, path: str, options: SinkOptions, *, rotate_bytes: int = ROTATE_BYTES) -> None:
        self.path = Path(path.removeprefix("//")).expanduser()
        self.name, self.target = f"jsonl:{self.path}", ""
        self._options = options
        self._rotate_bytes = rotate_bytes
        self._file = -1
        self._ledger: Ledger | None = None

    @property
    def letters(self) -> DeadLetterStore:
        """The ledger's. Reading them does not open the file with the metrics."""
        return self._ledger_file().letters

    def open(self) -> None:
        """Open file and ledger, and remove lines that were never committed."""
        if not self.path.parent.is_dir():
            raise SinkBroken(f"no directory {self.path.parent}", hint=f"mkdir -p {self.path.parent}")
        ledger = self._ledger_file()
        with self._translated():
            self._open_file()
            with self._locked():
                length = self._recover(ledger.values())
                self._sync_directory()
                ledger.commit(NewMetrics((), {}), (), (), state=self._position(length))

    def open_letters(self) -> None:
        """Open an existing ledger; raise SinkBroken if there is none."""
        ledger = Path(self._options.dead_letters or f"{self.path}.ledger.db").expanduser()
        if not ledger.exists():
            raise SinkBroken(f"no ledger {ledger}", hint="Give the same --sink and --dead-letters as to the bridge")
        self._ledger_file()

    def probe(self) -> None:
        """Check that file and ledger are in place and that the ledger is writable."""
        ledger = self._ready()
        self._check_files(ledger)
        ledger.probe()

    def commit(self, batch: MetricBatch) -> Committed:
        """Append the lines, write them to disk, then commit the ledger. If that fails, remove the lines again.

        If a file was moved, removed or replaced, raise SinkUnavailable; the next attempt opens the path again.
        """
        self._rotate_if_full()
        ledger = self._ready()
        with self._locked():
            self._check_files(ledger)
            fresh = ledger.new(batch)
            data = b"".join(encode_json(json_record(metric)) + b"\n" for metric in fresh.metrics)
            with self._translated():
                start, file = self._recover(ledger.values()), os.dup(self._file)
            try:
                with self._translated():
                    self._append(data)
                    self._check_files(ledger)
                    ledger.commit(fresh, batch.letters, batch.settles, state=self._position(start + len(data)))
            except BaseException:
                with contextlib.suppress(OSError):  # otherwise `open` removes them
                    os.ftruncate(file, start)
                raise
            finally:
                os.close(file)
        return Committed(len(fresh.metrics), len(batch.metrics) - len(fresh.metrics))

    def close(self) -> None:
        """Close file and ledger."""
        if self._ledger is not None:
            self._ledger.close()
            self._ledger = None
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _ledger_file(self) -> Ledger:
        if self._ledger is None:
            self._ledger = Ledger(self._ledger_path(), self._options)
        return self._ledger

    def _ledger_path(self) -> str:
        """Return the ledger's path; raise SinkBroken if the file has another ledger, which would cut off our lines.

        A ledger in another place has a symbolic link beside the file.
        """
        link, given = Path(f"{self.path}.ledger.db"), self._options.dead_letters
        if given is not None:
            target = Path(given).expanduser().resolve()
            with self._translated(), contextlib.suppress(FileExistsError):
                link.symlink_to(target)
            if link.resolve() != target:
                hint = f"Use it, or stop the bridges of {self.path} and run: mv {link} {target}"
                raise SinkBroken(f"the ledger of {self.path} is {link.resolve()}", hint=hint)
        return str(link)

    def _append(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self._file, view) :]
        if data:
            os.fdatasync(self._file)

    def _open_file(self) -> None:
        self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep other processes out of the file during one commit: `dead-letters retry` may run beside the bridge."""
        deadline, file = time.monotonic() + LOCK_SECONDS, os.dup(self._file)
        try:
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError as error:
                    if time.monotonic() > deadline:
                        raise SinkUnavailable(f"another process writes to {self.path}") from error
                    time.sleep(LOCK_WAIT)
            try:
                yield
            finally:
                fcntl.flock(file, fcntl.LOCK_UN)
        finally:
            os.close(file)

    def _recover(self, known: dict[str, int]) -> int:
        """Truncate our file to its committed length; append to any other file after its last line."""
        size, committed = os.fstat(self._file).st_size, known.get("length", 0)
        if known and size >= committed and known.items() <= self._position(committed).items():
            if size > committed:
                os.ftruncate(self._file, committed)
            return committed
        if size and os.pread(self._file, 1, size - 1) != b"\n":
            self._append(b"\n")
        return os.fstat(self._file).st_size

    def _position(self, length: int) -> dict[str, int]:
        """Return what the ledger records of the file: which one it is, its length, and a checksum of its end."""
        device, inode = identity_of_open(self._file)
        first = max(0, length - TAIL_BYTES)
        tail = zlib.crc32(os.pread(self._file, length - first, first))
        return {"device": device & _POSITIVE, "inode": inode & _POSITIVE, "length": length, "tail": tail}

    def _check_files(self, ledger: Ledger) -> None:
        """Raise SinkUnavailable and close both files if one of them was moved, removed or replaced."""
        try:
            ledger.check_file()
            if identity_of(self.path) != identity_of_open(self._file):
                raise file_changed(self.path)
        except SinkUnavailable:
            self.close()
            raise

    def _rotate_if_full(self) -> None:
        """Rename a file that is long enough; the next use opens a new one."""
        ledger = self._ready()
        with self._locked():
            self._check_files(ledger)
            with self._translated():
                if self._recover(ledger.values()) < self._rotate_bytes:
                    return
            stem = f"{self.path.name}.{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}"
            number = 0
            while (target := self.path.with_name(f"{stem}-{number}")).exists():
                number += 1
            with self._translated():
                self.path.rename(target)
        os.close(self._file)
        self._file = -1

    def _sync_directory(self) -> None:
        directory = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def _ready(self) -> Ledger:
        if self._file < 0:
            self.open()
        return self._ledger_file()

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            hint = FREE_SPACE if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
            raise SinkUnavailable(f"{self.path}: {error.strerror or error}", hint=hint) from error
