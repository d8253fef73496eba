"""Client identifiers that are stable and cannot be guessed. Each is created once and kept in a file of mode 0600.

The session belongs to the client identifier, and so do the messages that the broker queues while the bridge is away.
A restarted bridge must use the same identifier, a second bridge must use another one, and no other client of the
broker may guess it and take over the session.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import secrets
from pathlib import Path
from types import TracebackType

from mqttkit import directories
from mqttkit.errors import BridgeError

SLOTS = 256
"""Most bridges for one purpose on one machine."""
HAD_SESSION = "connected"
"""Second line of the file once the broker has accepted the identifier."""


def state_directory() -> Path:
    """Return the directory of what the bridge must remember: $XDG_STATE_HOME/mqttkit/bridge."""
    return directories.state_directory() / "bridge"


class Identity:
    """The first free client identifier of a purpose, locked while the process lives.

    `purpose` says what the session is for: broker, topic filter and sink. Another purpose has other identifiers,
    because its session has other messages. `earlier` is the purpose as an earlier version wrote it.
    """

    def __init__(self, *purpose: str, earlier: tuple[str, ...] = (), directory: Path | None = None) -> None:
        base = directory or state_directory()
        self._base = base / _digest(purpose)
        self._earlier = base / _digest(earlier) if earlier else None
        self._file = -1
        self.client_id = ""
        self.had_session = False
        """True if the broker has accepted this identifier before."""

    def __enter__(self) -> Identity:
        """Lock the first identifier that no other process uses; raise BridgeError."""
        try:
            if self._earlier is not None and self._earlier.is_dir() and not self._base.exists():
                self._earlier.rename(self._base)
            self._base.mkdir(mode=0o700, parents=True, exist_ok=True)
            for slot in range(SLOTS):
                if self._take(self._base / f"client-id-{slot}"):
                    return self
        except OSError as error:
            raise BridgeError(
                f"cannot store a client identifier in {self._base}: {error.strerror}",
                hint="Set XDG_STATE_HOME to a writable directory, or give an identifier with -i",
            ) from error
        raise BridgeError(f"all {SLOTS} client identifiers in {self._base} are in use")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Unlock it. The file stays."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _take(self, path: Path) -> bool:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            return False
        text, _, state = os.pread(file, 200, 0).decode("ascii", "replace").strip().partition("\n")
        if not text.startswith("mqttkit-bridge-"):
            text = f"mqttkit-bridge-{secrets.token_hex(12)}"
            os.ftruncate(file, 0)
            os.pwrite(file, f"{text}\n".encode(), 0)
            os.fsync(file)
        self._file = file
        self.client_id = text
        self.had_session = state.strip() == HAD_SESSION
        return True

    def remember_session(self) -> None:
        """Record that the broker has accepted this identifier."""
        self._write(f"{self.client_id}\n{HAD_SESSION}\n")

    def forget_session(self) -> None:
        """Record that the broker has no session under this identifier."""
        self._write(f"{self.client_id}\n")

    def _write(self, text: str) -> None:
        if self._file >= 0:
            os.pwrite(self._file, text.encode(), 0)
            os.ftruncate(self._file, len(text))
            os.fsync(self._file)


def _digest(purpose: tuple[str, ...]) -> str:
    return hashlib.sha256("\0".join(purpose).encode()).hexdigest()[:12]
