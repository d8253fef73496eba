"""What lay in a broker's directory before `up`, to be put back where `up` fails."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mqttkit.broker.profile import BrokerPaths
from mqttkit.files import write_secret


@dataclass(frozen=True)
class DirectorySnapshot:
    """The entries of the directory, and the files that `up` replaces there."""

    entries: frozenset[Path]
    """Files and directories directly below."""
    contents: Mapping[Path, bytes]
    """What spec and profile said, where they were there."""

    @classmethod
    def of(cls, paths: BrokerPaths) -> DirectorySnapshot:
        """Look at the directory."""
        entries = frozenset(paths.directory.iterdir()) if paths.directory.is_dir() else frozenset()
        return cls(entries, {path: path.read_bytes() for path in (paths.spec, paths.profile) if path in entries})

    def restore(self, directory: Path) -> None:
        """Remove what was not there, and put spec and profile back."""
        empty(directory, keep=self.entries)
        for path, content in self.contents.items():
            if path.read_bytes() != content:
                write_secret(path, content)


def empty(directory: Path, *, keep: frozenset[Path] = frozenset()) -> None:
    """Remove what is in the directory; the directory itself is removed by who holds its lock."""
    for entry in directory.iterdir():
        if entry in keep:
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink(missing_ok=True)
