"""A lock for each process that uses a ledger, so that others can repeat the requests of one that has died.

Each process locks one byte of LEDGER.lock, at an offset made from its identifier. If LEDGER is a symbolic link, the
lock is beside the file itself. The kernel releases it when the process ends. These are POSIX record locks (fcntl(2)):
two sinks of one process do not exclude each other, and closing the file in one releases the lock of both, so give each
sink of a process its own ledger.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from mqttkit.errors import SinkUnavailable


class OwnerLock:
    """Held from construction to `close`. Raise SinkUnavailable if the file cannot be opened or locked."""

    def __init__(self, ledger: str, owner: str) -> None:
        self._path = Path(f"{Path(ledger).expanduser().resolve()}.lock")
        try:
            self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise SinkUnavailable(f"cannot open {self._path}: {error.strerror}") from error
        if not self._take(owner):
            self.close()
            raise SinkUnavailable(f"another process holds our lock in {self._path}")

    @contextlib.contextmanager
    def taking(self, owner: str) -> Iterator[bool]:
        """Hold another lock during the block and yield True; yield False if a process holds it.

        That is the process itself, which runs, or one that repeats the requests of that process.
        """
        taken = self._take(owner)
        try:
            yield taken
        finally:
            if taken:
                fcntl.lockf(self._file, fcntl.LOCK_UN, 1, _offset(owner))

    def close(self) -> None:
        """Release the lock."""
        os.close(self._file)

    def _take(self, owner: str) -> bool:
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, _offset(owner))
        except (BlockingIOError, PermissionError):  # POSIX permits either
            return False
        except OSError as error:
            raise SinkUnavailable(f"cannot lock {self._path}: {error.strerror}") from error
        return True


def _offset(owner: str) -> int:
    """Return a number below 2^62, which any file offset can hold."""
    return int.from_bytes(hashlib.sha256(owner.encode()).digest()[:8], "big") >> 2
