"""Files that hold secrets: read without following symbolic links, replaced whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from pathlib import Path

from mqttkit.errors import MqttkitError, PermissionMissing, UsageError

SECRET_MODE = 0o600
SECRET_DIRECTORY_MODE = 0o700


def read_bytes(path: Path) -> bytes:
    """Return a regular file's content; raise UsageError where it is missing, a symbolic link or no file."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise _translated(path, error) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise UsageError(f"{path} is not a regular file")
    with os.fdopen(descriptor, "rb") as file:
        return file.read()


def read_text(path: Path) -> str:
    """Return the UTF-8 text of a regular file; raise UsageError as `read_bytes` does."""
    try:
        return read_bytes(path).decode()
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8 text: {error.reason} at byte {error.start}") from error


def read_secret_line(path: Path) -> str:
    """Return the first line of a password file; raise UsageError where it is empty."""
    line = read_text(path).partition("\n")[0].rstrip("\r")
    if not line:
        raise UsageError(f"the first line of {path} is empty", hint="Write the password on its first line")
    return line


def write_secret(
    path: Path, content: str | bytes, *, owner: tuple[int, int] | None = None, mode: int = SECRET_MODE
) -> None:
    """Replace the file whole: write beside it, fsync, rename.

    `owner` is (uid, gid); where it is not given the file keeps its owner, and a new one gets its directory's,
    so that a broker which owns its directory can read it. A symbolic link is refused, never followed.
    """
    data = content.encode() if isinstance(content, str) else content
    beside = path.with_name(f".{path.name}.{os.urandom(6).hex()}")
    try:
        ids = owner or _owner_for(path)
        _write_new(beside, data, ids, mode)
        beside.replace(path)
        sync_directory(path.parent)
    except OSError as error:
        with contextlib.suppress(FileNotFoundError):
            beside.unlink()
        raise _translated(path, error) from error


def make_private_directory(path: Path, *, owner: tuple[int, int] | None = None) -> None:
    """Make a directory, and those above it, that only its owner enters; leave one that is there as it is."""
    try:
        if path.is_dir():
            return
        path.mkdir(parents=True, mode=SECRET_DIRECTORY_MODE)
        if owner is not None and os.geteuid() == 0:
            os.chown(path, *owner)
    except OSError as error:
        raise _translated(path, error) from error


def sync_directory(path: Path) -> None:
    """Make a rename in the directory survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _owner_for(path: Path) -> tuple[int, int]:
    try:
        status = path.lstat()
    except FileNotFoundError:
        status = path.parent.stat()
    else:
        if stat.S_ISLNK(status.st_mode):
            raise OSError(errno.ELOOP, "is a symbolic link")
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "is not a regular file")
    return status.st_uid, status.st_gid


def _write_new(path: Path, data: bytes, owner: tuple[int, int], mode: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        if os.geteuid() == 0:
            os.fchown(descriptor, *owner)
        os.fchmod(descriptor, mode)
        file.write(data)
        file.flush()
        os.fsync(descriptor)


def _translated(path: Path, error: OSError) -> MqttkitError:
    if error.errno == errno.ELOOP:
        return UsageError(f"{path} is a symbolic link: refused", hint="Put the file itself there")
    if error.errno == errno.ENOENT:
        return UsageError(f"{path} does not exist")
    if error.errno in (errno.EACCES, errno.EPERM):
        return PermissionMissing(f"no right to use {path}", hint="Run the command as the file's owner or as root")
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return MqttkitError(f"no space left to write {path}", hint="Free some space; the old file is untouched")
    return MqttkitError(f"cannot use {path}: {error.strerror}")
