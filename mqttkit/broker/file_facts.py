"""Owner, mode and kind of a broker's files."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class FileFact:
    """One file or directory of a broker."""

    name: str
    """Relative to the broker's root, such as config/passwd."""
    place: str
    """How an operator names it: a path, or a path in a container."""
    uid: int
    """Its owner."""
    wanted: int
    """The broker's own uid."""
    mode: int
    """Permission bits."""
    link: bool
    """It is a symbolic link."""
    directory: bool
    """It is a directory."""

    def troubles(self) -> Iterator[str]:
        """Yield what is wrong with it."""
        if self.link:
            yield "is a symbolic link: the broker could be made to read another file"
            return
        if self.uid != self.wanted:
            yield f"belongs to uid {self.uid}, not to the broker's {self.wanted}: a reload could not read it"
        if self.mode & 0o077:
            yield f"has mode {self.mode:04o}: others than the broker may use it"
        if not self.mode & stat.S_IRUSR:
            yield f"has mode {self.mode:04o}: the broker cannot read it"


def facts_below(root: Path, wanted: int) -> Iterator[FileFact]:
    """Yield the facts of everything below a broker's root, links not followed."""
    for path in sorted(root.rglob("*")):
        status = path.lstat()
        yield FileFact(
            name=str(path.relative_to(root)),
            place=str(path),
            uid=status.st_uid,
            wanted=wanted,
            mode=stat.S_IMODE(status.st_mode),
            link=stat.S_ISLNK(status.st_mode),
            directory=stat.S_ISDIR(status.st_mode),
        )
