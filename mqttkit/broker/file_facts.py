"""Owner, mode and kind of a broker's files."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from dataclasses import dataclass

from mqttkit.files import ManagedDirectory


@dataclass(frozen=True, kw_only=True)
class FileFact:
    """One file or directory of a broker."""

    name: str
    """Relative to the broker's root, such as config/passwd."""
    place: str
    """The path that an operator uses, or the path in a container."""
    uid: int
    """User id of its owner."""
    wanted: int
    """User id of the broker."""
    mode: int
    """Permission bits."""
    link: bool
    """True for a symbolic link."""
    directory: bool
    """True for a directory."""

    def problems(self) -> Iterator[str]:
        """Yield what is wrong with it."""
        if self.link:
            yield "is a symbolic link: someone could make the broker read another file"
            return
        if self.uid != self.wanted:
            yield f"belongs to uid {self.uid}, but the broker runs as uid {self.wanted} and cannot read it"
        if self.mode & 0o077:
            yield f"has mode {self.mode:04o}: other users may use it"
        if not self.mode & stat.S_IRUSR:
            yield f"has mode {self.mode:04o}: the broker cannot read it"


def facts_below(files: ManagedDirectory, wanted: int) -> Iterator[FileFact]:
    """Yield the facts of everything below a broker's root; symbolic links are not followed."""
    for name, status in sorted(files.walk(), key=lambda entry: entry[0]):
        yield FileFact(
            name=name,
            place=str(files.root / name),
            uid=status.st_uid,
            wanted=wanted,
            mode=stat.S_IMODE(status.st_mode),
            link=stat.S_ISLNK(status.st_mode),
            directory=stat.S_ISDIR(status.st_mode),
        )
