"""Notice that a file was moved, removed or replaced while it is open; what to do about a full disk."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from mqttkit.errors import SinkUnavailable

FREE_SPACE = "Free space on its disk; the bridge tries again automatically"


class FileIdentity(NamedTuple):
    """What tells two files apart, as long as one of them is open."""

    device: int
    inode: int


def identity_of(path: Path) -> FileIdentity | None:
    """Return the identity of the file at `path`, or None if there is no such file."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise SinkUnavailable(f"{path}: {error.strerror}") from error
    return FileIdentity(status.st_dev, status.st_ino)


def identity_of_open(file: int) -> FileIdentity:
    """Return the identity of an open file."""
    status = os.fstat(file)
    return FileIdentity(status.st_dev, status.st_ino)


def file_changed(path: Path) -> SinkUnavailable:
    """Return the error for a path that no longer names the open file."""
    return SinkUnavailable(f"{path} was moved, removed or replaced: opening {path} again")
