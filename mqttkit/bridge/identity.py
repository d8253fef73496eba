"""Client identifiers that are stable and cannot be guessed. Each is created once and kept in a file of mode 0600.

The session belongs to the client identifier, and so do the messages that the broker queues while the bridge is away.
A restarted bridge must use the same identifier, a second bridge must use another one, and no other client of the
broker may guess it and take over the session.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from mqttkit import directories
from mqttkit.errors import BridgeError
from mqttkit.files import write_secret

SLOTS = 256
"""Maximum number of bridges for one purpose on one machine."""
PURPOSE = "purpose.json"
"""File next to the identifiers that says what they are for."""
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
        self._purpose = purpose
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
            self._describe()
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

    def _describe(self) -> None:
        """Write what the identifiers are for, so that `stored_identities` can report it."""
        path = self._base / PURPOSE
        if not path.exists():
            write_secret(path, json.dumps(self._purpose))

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


@dataclass(frozen=True)
class StoredIdentity:
    """A client identifier on this machine."""

    client_id: str
    purpose: tuple[str, ...]
    """Broker's addresses, topic filter, sink, and the stream, list or table in it; empty if it is not known."""
    in_use: bool
    """True while a bridge runs with it."""
    had_session: bool
    """True if the broker has accepted it and the bridge has not left."""
    path: Path

    @property
    def topic_filter(self) -> str:
        """The filter that it has subscribed to; empty if it is not known."""
        return self.purpose[1] if len(self.purpose) > 1 else ""

    def forget_session(self) -> None:
        """Record that the broker has no session under this identifier; raise BridgeError if a bridge uses it."""
        file = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
        try:
            if _is_locked(file):
                raise BridgeError(f"a bridge runs with the session {self.client_id}", hint="Stop it first")
            text = f"{self.client_id}\n"
            os.pwrite(file, text.encode(), 0)
            os.ftruncate(file, len(text))
        finally:
            os.close(file)


def stored_identities(directory: Path | None = None) -> list[StoredIdentity]:
    """Return every client identifier that bridges of this machine have used."""
    paths = sorted((directory or state_directory()).glob("*/client-id-*"))
    return [found for path in paths if (found := _read(path)) is not None]


def kept_session(*purpose: str, directory: Path | None = None) -> str:
    """Return the first client identifier of a purpose if its session has not been ended; otherwise an empty text.

    It takes no lock, so that a bridge that starts meanwhile gets its identifier.
    """
    try:
        text = ((directory or state_directory()) / _digest(purpose) / "client-id-0").read_text("ascii", "replace")
    except OSError:
        return ""
    client_id, _, state = text.strip().partition("\n")
    return client_id if state == HAD_SESSION else ""


def _read(path: Path) -> StoredIdentity | None:
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise BridgeError(f"cannot read {path}: {error.strerror}") from error
    try:
        client_id, _, state = os.pread(file, 200, 0).decode("ascii", "replace").strip().partition("\n")
        in_use = _is_locked(file)
    finally:
        os.close(file)
    purpose = path.with_name(PURPOSE)
    about = tuple(map(str, json.loads(purpose.read_text("utf-8")))) if purpose.exists() else ()
    return StoredIdentity(client_id, about, in_use, state == HAD_SESSION, path) if client_id else None


def _is_locked(file: int) -> bool:
    """Return whether a process holds the lock; otherwise hold it until the file is closed."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False


def _digest(purpose: tuple[str, ...]) -> str:
    return hashlib.sha256("\0".join(purpose).encode()).hexdigest()[:12]
