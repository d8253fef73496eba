"""Secret files: whole or untouched, never through a symbolic link, with the right owner and mode."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from mqttkit import files
from mqttkit.errors import MqttkitError, PermissionMissing, UsageError


def test_a_new_file_is_0600_whatever_the_umask(tmp_path: Path) -> None:
    """The mode does not depend on the umask."""
    before = os.umask(0)
    try:
        files.write_secret(tmp_path / "secret", "text")
    finally:
        os.umask(before)
    assert (tmp_path / "secret").stat().st_mode & 0o7777 == 0o600
    assert files.read_text(tmp_path / "secret") == "text"


@pytest.mark.parametrize("dangling", [True, False])
def test_a_symbolic_link_is_neither_read_nor_replaced(tmp_path: Path, dangling: bool) -> None:
    """A link planted in the directory redirects nothing, and its target stays as it was."""
    target = tmp_path / "target"
    if not dangling:
        target.write_text("precious")
    link = tmp_path / "secret"
    link.symlink_to(target)
    with pytest.raises(UsageError, match="symbolic link"):
        files.write_secret(link, "new")
    with pytest.raises(UsageError, match="symbolic link"):
        files.read_text(link)
    assert link.is_symlink()
    assert target.exists() is not dangling
    assert dangling or target.read_text() == "precious"


def test_a_failed_write_leaves_the_old_file_and_nothing_beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk at fsync leaves the old content and no half-written file."""
    path = tmp_path / "secret"
    files.write_secret(path, "old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(MqttkitError, match="no space left"):
        files.write_secret(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root changes owners")
def test_the_owner_stays_or_comes_from_the_directory(tmp_path: Path) -> None:
    """A broker that owns its directory can read what root writes there; an old owner is kept."""
    os.chown(tmp_path, 1883, 1883)
    files.write_secret(tmp_path / "new", "x")
    assert (tmp_path / "new").stat().st_uid == 1883
    os.chown(tmp_path / "new", 4711, 4712)
    files.write_secret(tmp_path / "new", "y")
    status = (tmp_path / "new").stat()
    assert (status.st_uid, status.st_gid, status.st_mode & 0o777) == (4711, 4712, 0o600)
    files.write_secret(tmp_path / "new", "z", owner=(1, 2))
    assert (tmp_path / "new").stat().st_uid == 1


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo])
def test_what_is_no_file_is_refused(tmp_path: Path, make: object) -> None:
    """A directory or a pipe in the file's place is an error, and nothing hangs on it."""
    path = tmp_path / "secret"
    make(path)  # type: ignore[operator]
    with pytest.raises(UsageError, match="not a regular file"):
        files.read_text(path)
    with pytest.raises(MqttkitError, match="not a regular file"):
        files.write_secret(path, "x")


def test_missing_and_unreadable_files_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each cause has its sentence."""
    with pytest.raises(UsageError, match="does not exist"):
        files.read_text(tmp_path / "none")
    with pytest.raises(UsageError, match="does not exist"):
        files.write_secret(tmp_path / "none" / "secret", "x")
    (tmp_path / "latin").write_bytes(b"\xff")
    with pytest.raises(UsageError, match="UTF-8"):
        files.read_text(tmp_path / "latin")

    def denied(*arguments: object) -> int:
        raise PermissionError(errno.EACCES, "denied")

    monkeypatch.setattr(files.os, "open", denied)
    with pytest.raises(PermissionMissing, match="no right"):
        files.read_text(tmp_path / "none")


def test_a_password_file_gives_its_first_line(tmp_path: Path) -> None:
    """Line ends of either kind are no part of the password; an empty first line is an error."""
    path = tmp_path / "password"
    path.write_bytes(b"secret word \r\nsecond\n")
    assert files.read_secret_line(path) == "secret word "
    path.write_text("\nsecond")
    with pytest.raises(UsageError, match="first line"):
        files.read_secret_line(path)


def test_a_private_directory_is_for_its_owner_alone(tmp_path: Path) -> None:
    """A new directory is 0700; one that is there stays as it is."""
    files.make_private_directory(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").stat().st_mode & 0o777 == 0o700
    files.make_private_directory(tmp_path)
