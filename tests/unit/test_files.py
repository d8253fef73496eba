"""Secret files: whole or untouched, never through a symbolic link, with the right owner and mode."""

from __future__ import annotations

import errno
import os
import stat
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
    with pytest.raises(PermissionMissing, match="no permission"):
        files.read_text(tmp_path / "none")


def test_a_password_file_gives_its_first_line(tmp_path: Path) -> None:
    """Neither kind of line end belongs to the password; an empty first line is an error."""
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


@pytest.fixture
def managed(tmp_path: Path) -> files.ManagedDirectory:
    """A managed directory with one file, and a foreign directory beside it."""
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "passwd").write_text("precious")
    managed = files.ManagedDirectory(tmp_path / "root")
    managed.write("config/passwd", b"old")
    return managed


def replace_by_link(path: Path, target: Path) -> None:
    path.rename(path.with_name("aside"))
    path.symlink_to(target)


@pytest.mark.parametrize("linked", ["root", "root/config", "root/config/passwd"])
def test_a_symbolic_link_anywhere_below_a_managed_root_is_an_error(
    managed: files.ManagedDirectory, tmp_path: Path, linked: str
) -> None:
    """Whoever may write to the directory cannot make us read or write another file, in no component of its name."""
    below = Path("root/config/passwd").relative_to(linked)
    replace_by_link(tmp_path / linked, tmp_path / "foreign" / ("" if linked != "root/config/passwd" else "passwd"))
    if linked == "root":
        (tmp_path / "foreign" / "config").mkdir()
        (tmp_path / "foreign" / "config" / "passwd").write_text("precious")
    with pytest.raises(UsageError, match="symbolic link"):
        managed.write("config/passwd", b"new")
    with pytest.raises(UsageError, match="symbolic link"):
        managed.read("config/passwd")
    assert "precious" in ((tmp_path / linked).resolve() / below).read_text()
    assert (tmp_path / "foreign" / "passwd").read_text() == "precious"


def test_removing_a_link_leaves_its_target(managed: files.ManagedDirectory, tmp_path: Path) -> None:
    """`remove` and `status` act on the link itself, and refuse a linked directory."""
    replace_by_link(tmp_path / "root" / "config" / "passwd", tmp_path / "foreign" / "passwd")
    assert stat.S_ISLNK(managed.status("config/passwd").st_mode)  # type: ignore[union-attr]
    managed.remove("config/passwd")
    assert not (tmp_path / "root" / "config" / "passwd").is_symlink()
    assert (tmp_path / "foreign" / "passwd").read_text() == "precious"
    replace_by_link(tmp_path / "root" / "config", tmp_path / "foreign")
    for action in (managed.remove, managed.status):
        with pytest.raises(UsageError, match="symbolic link"):
            action("config/passwd")
    assert (tmp_path / "foreign" / "passwd").exists()


@pytest.mark.timeout(10)
def test_a_fifo_below_a_managed_root_is_an_error_and_nothing_waits_for_it(
    managed: files.ManagedDirectory, tmp_path: Path
) -> None:
    """A pipe without a writer would block a plain open forever, in a file's or a directory's place."""
    (tmp_path / "root" / "config" / "passwd").unlink()
    os.mkfifo(tmp_path / "root" / "config" / "passwd")
    os.mkfifo(tmp_path / "root" / "data")
    with pytest.raises(UsageError, match="not a regular file"):
        managed.read("config/passwd")
    with pytest.raises(UsageError, match="not a regular file"):
        managed.write("config/passwd", b"new")
    with pytest.raises(MqttkitError):
        managed.write("data/mosquitto.db", b"new")


def test_a_managed_directory_writes_reads_lists_and_removes(tmp_path: Path) -> None:
    """Missing directories are created with mode 0700, files have mode 0600, and a missing file is None."""
    managed = files.ManagedDirectory(tmp_path / "a" / "root")
    assert managed.read("config/acl") is None
    assert managed.status("config/acl") is None
    assert list(managed.walk()) == []
    managed.remove("config/acl")
    managed.write("config/certs/ca.crt", b"certificate")
    managed.make("data")
    assert managed.read("config/certs/ca.crt") == b"certificate"
    modes = {name: status.st_mode & 0o777 for name, status in managed.walk()}
    assert modes == {"config": 0o700, "config/certs": 0o700, "config/certs/ca.crt": 0o600, "data": 0o700}
    managed.remove("config/certs/ca.crt")
    assert managed.read("config/certs/ca.crt") is None


@pytest.mark.parametrize("name", ["", "/etc/passwd", "../profile.json", "config/../../profile.json"])
def test_a_name_that_leaves_the_managed_root_is_a_programming_error(managed: files.ManagedDirectory, name: str) -> None:
    """No caller builds such a name; a new one that does fails immediately."""
    with pytest.raises(ValueError, match="not a name below"):
        managed.read(name)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root changes owners")
def test_a_managed_directory_gives_everything_to_its_owner(tmp_path: Path) -> None:
    """Directories and files belong to the broker's user, also those that existed."""
    (tmp_path / "root").mkdir()
    managed = files.ManagedDirectory(tmp_path / "root", owner=(1883, 1884))
    managed.write("config/acl", b"text")
    owners = {name: (status.st_uid, status.st_gid) for name, status in managed.walk()}
    assert owners == dict.fromkeys(("config", "config/acl"), (1883, 1884))
    assert (tmp_path / "root").stat().st_uid == 1883
