"""Files that hold secrets: read without following symbolic links, replaced completely or not at all.

Each access works relative to the descriptor of a directory (`openat`). A `ManagedDirectory` opens every component
below its root with O_NOFOLLOW, so that a user who may write there cannot redirect it to another file. What was
opened is examined with `fstat` before it is used, and no open blocks: a FIFO in a file's place is an error.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from mqttkit.errors import MqttkitError, PermissionMissing, UsageError

SECRET_MODE = 0o600
SECRET_DIRECTORY_MODE = 0o700
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


@dataclass(frozen=True)
class ManagedDirectory:
    """A directory tree that a less privileged user may write to. Names are relative to `root`, such as config/acl.

    Neither the root nor anything below it may be a symbolic link; the directories above the root are trusted.
    """

    root: Path
    """The directory; `write` and `make` create it if it is missing."""
    owner: tuple[int, int] | None = None
    """(uid, gid) of every file and directory that is written; None leaves the current user's."""

    def read(self, name: str) -> bytes | None:
        """Return a file's content, or None if there is no such file; raise UsageError if it is not a regular file."""
        try:
            with self._parent(name) as (directory, last):
                return _read_at(directory, last)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _translated(self.root / name, error) from error

    def write(self, name: str, content: bytes, *, mode: int = SECRET_MODE) -> None:
        """Replace a file as `write_secret` does, and create the directories above it."""
        try:
            with self._parent(name, create=True) as (directory, last):
                _write_at(directory, last, content, owner=self.owner, mode=mode)
        except OSError as error:
            raise _translated(self.root / name, error) from error

    def make(self, name: str) -> None:
        """Create a directory and those above it, with mode 0700, and give them to the owner."""
        try:
            with self._parent(f"{name}/_", create=True):
                pass
        except OSError as error:
            raise _translated(self.root / name, error) from error

    def remove(self, name: str) -> None:
        """Remove a file, or a symbolic link itself; do nothing if it does not exist."""
        try:
            with contextlib.suppress(FileNotFoundError), self._parent(name) as (directory, last):
                os.unlink(last, dir_fd=directory)
        except OSError as error:
            raise _translated(self.root / name, error) from error

    def status(self, name: str) -> os.stat_result | None:
        """Return size, times, owner and mode of an entry, of a symbolic link itself; None if it does not exist."""
        try:
            with self._parent(name) as (directory, last):
                return os.stat(last, dir_fd=directory, follow_symlinks=False)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _translated(self.root / name, error) from error

    def walk(self) -> Iterator[tuple[str, os.stat_result]]:
        """Yield name and status of everything below the root, symbolic links not followed."""
        with contextlib.suppress(FileNotFoundError):
            for place, directories, files, descriptor in os.fwalk(self.root, follow_symlinks=False):
                for name in sorted((*directories, *files)):
                    with contextlib.suppress(FileNotFoundError):  # the broker replaces its files at any time
                        status = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
                        yield str((Path(place) / name).relative_to(self.root)), status

    def repair(self) -> list[str]:
        """Give every file and directory below the root to the owner, with mode 0600 or 0700; return the changed names.

        Anything else, such as a symbolic link, stays as it is.
        """
        repaired = []
        for name, status in list(self.walk()):
            mode = {stat.S_IFREG: SECRET_MODE, stat.S_IFDIR: SECRET_DIRECTORY_MODE}.get(stat.S_IFMT(status.st_mode))
            wrong_owner = self.owner is not None and (status.st_uid, status.st_gid) != self.owner
            if mode is None or (stat.S_IMODE(status.st_mode) == mode and not wrong_owner):
                continue
            try:
                with self._parent(name) as (directory, last):
                    _repair_at(directory, last, mode, self.owner)
            except OSError as error:
                raise _translated(self.root / name, error) from error
            repaired.append(name)
        return repaired

    @contextlib.contextmanager
    def _parent(self, name: str, *, create: bool = False) -> Iterator[tuple[int, str]]:
        """Yield a descriptor of the directory that contains `name`, and the last component of `name`."""
        parts = PurePosixPath(name).parts
        if not parts or ".." in parts or name.startswith("/"):
            raise ValueError(f"{name!r} is not a name below {self.root}")
        if create:
            self.root.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as stack:
            directory: int | None = None
            for part in (str(self.root), *parts[:-1]):
                directory = self._enter(part, directory, create=create)
                stack.callback(os.close, directory)
            assert directory is not None
            yield directory, parts[-1]

    def _enter(self, name: str, parent: int | None, *, create: bool) -> int:
        if create:
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, SECRET_DIRECTORY_MODE, dir_fd=parent)
        descriptor = _open_directory(name, parent)
        if create and self.owner is not None and os.geteuid() == 0:
            os.fchown(descriptor, *self.owner)
        return descriptor


def read_bytes(path: Path) -> bytes:
    """Return a regular file's content; raise UsageError if it is missing, a symbolic link or not a regular file."""
    try:
        with _opened(path.parent) as directory:
            return _read_at(directory, path.name)
    except OSError as error:
        raise _translated(path, error) from error


def read_text(path: Path) -> str:
    """Return the UTF-8 text of a regular file; raise UsageError as `read_bytes` does."""
    try:
        return read_bytes(path).decode()
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8 text: {error.reason} at byte {error.start}") from error


def read_secret_line(path: Path) -> str:
    """Return the first line of a password file; raise UsageError if it is empty."""
    line = read_text(path).partition("\n")[0].rstrip("\r")
    if not line:
        raise UsageError(f"the first line of {path} is empty", hint="Write the password on its first line")
    return line


def write_secret(
    path: Path, content: str | bytes, *, owner: tuple[int, int] | None = None, mode: int = SECRET_MODE
) -> None:
    """Replace a file: write the content to a new file beside it, sync it, rename it.

    `owner` is (uid, gid). Without it the file keeps its owner, and a new file gets the owner of its directory, so
    that a broker which owns its directory can read it. A symbolic link in the file's place is an error.
    """
    data = content.encode() if isinstance(content, str) else content
    try:
        with _opened(path.parent) as directory:
            _write_at(directory, path.name, data, owner=owner, mode=mode)
    except OSError as error:
        raise _translated(path, error) from error


def make_private_directory(path: Path, *, owner: tuple[int, int] | None = None) -> None:
    """Create a directory, and those above it, that only its owner may enter; an existing one stays as it is."""
    try:
        if path.is_dir():
            return
        path.mkdir(parents=True, mode=SECRET_DIRECTORY_MODE)
        if owner is not None and os.geteuid() == 0:
            os.chown(path, *owner, follow_symlinks=False)
    except OSError as error:
        raise _translated(path, error) from error


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    descriptor = os.open(path, _DIRECTORY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _open_directory(name: str, parent: int | None) -> int:
    """Open a directory that is not a symbolic link; raise OSError, ELOOP for a link."""
    try:
        return os.open(name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
    except NotADirectoryError:
        # Linux reports a symbolic link in the same way when O_DIRECTORY is set.
        if stat.S_ISLNK(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
            raise OSError(errno.ELOOP, f"{name} is a symbolic link") from None
        raise


def _read_at(directory: int, name: str) -> bytes:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    descriptor = os.open(name, flags, dir_fd=directory)
    try:
        _require_regular(os.fstat(descriptor))
    except OSError:
        os.close(descriptor)
        raise
    with os.fdopen(descriptor, "rb") as file:
        return file.read()


def _write_at(directory: int, name: str, data: bytes, *, owner: tuple[int, int] | None, mode: int) -> None:
    new = f".{name}.{os.urandom(6).hex()}"
    kept = _kept_owner(directory, name)
    try:
        _write_new(directory, new, data, owner or kept, mode)
        os.replace(new, name, src_dir_fd=directory, dst_dir_fd=directory)
        os.fsync(directory)
    except OSError:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(new, dir_fd=directory)
        raise


def _repair_at(directory: int, name: str, mode: int, owner: tuple[int, int] | None) -> None:
    """Set owner and mode of a regular file or a directory; only root may open one of mode 0000."""
    if os.geteuid() != 0:
        os.chmod(name, mode, dir_fd=directory)
        return
    descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
    try:
        if owner is not None:
            os.fchown(descriptor, *owner)
        os.fchmod(descriptor, mode)
    finally:
        os.close(descriptor)


def _kept_owner(directory: int, name: str) -> tuple[int, int]:
    """Return the owner of the file that is replaced, or of its directory; raise OSError if it is not a regular file."""
    try:
        status = os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        status = os.fstat(directory)
    else:
        _require_regular(status)
    return status.st_uid, status.st_gid


def _require_regular(status: os.stat_result) -> None:
    if stat.S_ISLNK(status.st_mode):
        raise OSError(errno.ELOOP, "is a symbolic link")
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "is not a regular file")


def _write_new(directory: int, name: str, data: bytes, owner: tuple[int, int], mode: int) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(name, flags, SECRET_MODE, dir_fd=directory)
    with os.fdopen(descriptor, "wb") as file:
        if os.geteuid() == 0:
            os.fchown(descriptor, *owner)
        os.fchmod(descriptor, mode)
        file.write(data)
        file.flush()
        os.fsync(descriptor)


def _translated(path: Path, error: OSError) -> MqttkitError:
    match error.errno:
        case errno.ELOOP:
            return UsageError(f"{path} is or passes through a symbolic link", hint="Put the file itself there")
        case errno.EINVAL | errno.EISDIR | errno.ENXIO:
            return UsageError(f"{path} is not a regular file", hint="Remove it, or choose another path")
        case errno.ENOENT:
            return UsageError(f"{path} does not exist")
        case errno.EACCES | errno.EPERM:
            return PermissionMissing(
                f"no permission to use {path}", hint="Run the command as the file's owner or as root"
            )
        case errno.ENOSPC | errno.EDQUOT:
            return MqttkitError(f"no space left to write {path}", hint="Free some space; the old file is unchanged")
    return MqttkitError(f"cannot use {path}: {error.strerror}")
