"""A broker's log file: its last lines, new lines across rotations, and rotation while the broker writes to it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

LOG_LIMIT = 10 * 1024 * 1024
"""A log that is larger than this many bytes is rotated."""
FOLLOW_SECONDS = 0.1
BLOCK = 64 * 1024


def log_lines(path: Path, *, tail: int | None = None, follow: bool = False) -> Iterator[str]:
    """Yield the last `tail` lines of a log (None: all); with `follow`, each new line until its directory is removed.

    Only the part that is needed is read. A log that is rotated or truncated meanwhile is followed.
    """
    file = _opened(path)
    if file is None and not follow:
        return
    start = -1 if file is None else _start_of_tail(file, tail)
    while True:
        if file is not None:
            with file:
                if start >= 0:
                    file.seek(start)
                yield from _whole_lines(file, path, follow=follow)
        if not follow or not path.parent.is_dir():
            return
        time.sleep(FOLLOW_SECONDS)
        file, start = _opened(path), 0


def append(path: Path, chunks: Iterable[bytes]) -> None:
    """Append to a log, and rotate it if it becomes large."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "ab") as file:
        for chunk in chunks:
            file.write(chunk)
    if path.stat().st_size > LOG_LIMIT:
        path.replace(_rotated(path))


def rotate_while_written(path: Path, *, limit: int = LOG_LIMIT) -> bool:
    """Copy a large log to NAME.log.1 and empty it; the broker continues to append to the same file.

    Returns False if the log is small, does not exist, or another command is rotating it.
    """
    with contextlib.suppress(FileNotFoundError, PermissionError, BlockingIOError):
        if path.stat().st_size <= limit:
            return False
        with path.open("r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with os.fdopen(_new_private(_rotated(path)), "wb") as copy:
                shutil.copyfileobj(file, copy)
                copy.write(file.read())  # lines that the broker wrote meanwhile
                file.truncate(0)
        return True
    return False


def _whole_lines(file: BinaryIO, path: Path, *, follow: bool) -> Iterator[str]:
    """Yield lines to the end; with `follow`, wait for more until the file was replaced or truncated."""
    while True:
        line = file.readline()
        if line.endswith(b"\n") or (line and not follow):
            yield line.rstrip(b"\n").decode(errors="replace")
            continue
        file.seek(-len(line), os.SEEK_CUR)
        if not follow or _is_old(file, path):
            return
        time.sleep(FOLLOW_SECONDS)


def _is_old(file: BinaryIO, path: Path) -> bool:
    """Return whether another file has the log's name now, or the file is shorter than what was read."""
    status = os.fstat(file.fileno())
    try:
        return path.stat().st_ino != status.st_ino or status.st_size < file.tell()
    except FileNotFoundError:
        return True


def _start_of_tail(file: BinaryIO, tail: int | None) -> int:
    """Return the offset of the last `tail` lines; read from the end."""
    if tail is None:
        return 0
    end = position = file.seek(0, os.SEEK_END)
    block = b""
    while position > 0 and block.count(b"\n") <= tail:
        size = min(BLOCK, position)
        position -= size
        file.seek(position)
        block = file.read(size) + block
    lines = block.splitlines(keepends=True)
    return end - sum(map(len, lines[max(0, len(lines) - tail) :]))


def _opened(path: Path) -> BinaryIO | None:
    try:
        return path.open("rb")
    except FileNotFoundError:
        return None


def _rotated(path: Path) -> Path:
    return path.with_name(f"{path.name}.1")


def _new_private(path: Path) -> int:
    """Return a descriptor of a new file that only its owner may read."""
    path.unlink(missing_ok=True)
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
