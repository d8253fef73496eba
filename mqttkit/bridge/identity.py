"""Client identifiers that are stable and cannot be guessed: made once, kept in a file of mode 0600.

A session belongs to its client identifier, and with it what the broker keeps while the bridge is away. So
a bridge started again must come back under the same one, a second one beside it must not, and nobody who
can connect to the broker may guess it and take the session over.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import secrets
from pathlib import Path
from types import TracebackType

from mqttkit.errors import BridgeError

SLOTS = 256
"""Bridges for one purpose on one machine."""


def state_directory() -> Path:
    """Return where mqttkit keeps what it must remember: $XDG_STATE_HOME/mqttkit/bridge."""
    home = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(home) / "mqttkit" / "bridge"


class Identity:
    """A client identifier, held for as long as the process lives; the first free one of its purpose.

    `purpose` says what the session is for: broker, topic filter and sink. Another purpose has other
    identifiers, for its session holds other messages.
    """

    def __init__(self, *purpose: str, directory: Path | None = None) -> None:
        digest = hashlib.sha256("\0".join(purpose).encode()).hexdigest()[:12]
        self._base = (directory or state_directory()) / digest
        self._file = -1
        self.client_id = ""

    def __enter__(self) -> Identity:
        """Take the first identifier that no living process holds; raise BridgeError."""
        try:
            self._base.mkdir(mode=0o700, parents=True, exist_ok=True)
            for slot in range(SLOTS):
                if self._take(self._base / f"client-id-{slot}"):
                    return self
        except OSError as error:
            raise BridgeError(
                f"cannot keep a client identifier in {self._base}: {error.strerror}",
                hint="Set XDG_STATE_HOME to a directory that can be written, or give one: -i",
            ) from error
        raise BridgeError(f"all {SLOTS} client identifiers in {self._base} are in use")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let go of it; the file stays."""
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
        text = os.pread(file, 200, 0).decode("ascii", "replace").strip()
        if not text.startswith("mqttkit-bridge-"):
            text = f"mqttkit-bridge-{secrets.token_hex(12)}"
            os.ftruncate(file, 0)
            os.pwrite(file, f"{text}\n".encode(), 0)
            os.fsync(file)
        self._file = file
        self.client_id = text
        return True
