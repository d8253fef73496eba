"""The contents of a broker's directory before `up`, restored if `up` fails."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mqttkit.broker.profile import BrokerPaths
from mqttkit.files import write_secret


@dataclass(frozen=True)
class DirectorySnapshot:
    """The entries of the directory, and the files that `up` replaces."""

    entries: frozenset[Path]
    """Files and directories directly in it."""
    contents: Mapping[Path, bytes]
    """Content of spec and profile, if they existed."""

    @classmethod
    def of(cls, paths: BrokerPaths) -> DirectorySnapshot:
        """Read the directory."""
        entries = frozenset(paths.directory.iterdir()) if paths.directory.is_dir() else frozenset()
        return cls(entries, {path: path.read_bytes() for path in (paths.spec, paths.profile) if path in entries})

    def restore(self, directory: Path) -> None:
        """Remove new entries, and restore spec and profile."""
        empty(directory, keep=self.entries)
        for path, content in self.contents.items():
            if path.read_bytes() != content:
                write_secret(path, content)


def empty(directory: Path, *, keep: frozenset[Path] = frozenset()) -> None:
    """Remove the contents of the directory; the holder of its lock removes the directory itself."""
    for entry in directory.iterdir():
        if entry in keep:
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink(missing_ok=True)
