"""Tenants in a YAML file, which is read again when it changes."""

from __future__ import annotations

import enum
import logging
import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from mqttkit.bridge.tenants.types import check_tenant
from mqttkit.errors import ConfigError, UsageError
from mqttkit.files import write_secret

logger = logging.getLogger(__name__)

_EMPTY = re.compile(r"^(\[\]|\{\})[ \t]*\n?", re.MULTILINE)
CHECK_SECONDS = 1.0
"""Seconds between checks whether the file has changed."""


class YamlRegistry:
    """A list of identifiers, or a mapping of identifier to name; read again when the file changes."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self.path = path
        self._clock = clock
        self._stamp = _stamp(path)
        self._tenants = read_yaml(path).tenants
        self._reader: threading.Thread | None = None
        self._checked = clock()

    def known(self, tenants: set[str]) -> set[str]:
        """Return the tenants that are in the file. A separate thread reads a changed file; the caller never waits.

        If the file cannot be read, or is empty, the earlier tenants stay known.
        """
        if self._clock() - self._checked >= CHECK_SECONDS:
            self._checked = self._clock()
            self._reload()
        return tenants & self._tenants.keys()

    def all(self) -> dict[str, str]:
        """Return every tenant with its name."""
        return dict(self._tenants)

    def add(self, tenant: str, name: str = "") -> bool:
        """Add a line at the end of the file."""
        tenant = check_tenant(tenant)
        if tenant in self._tenants:
            return False
        text = self.path.read_text("utf-8")
        mapping = read_yaml(self.path).kind is TenantsKind.MAPPING
        if not self._tenants:
            text = _EMPTY.sub("", text)
        line = f"{_quoted(tenant)}: {_quoted(name)}\n" if mapping else f"- {_quoted(tenant)}\n"
        body = text if not text or text.endswith("\n") else text + "\n"
        self._rewrite(body + line, {**self._tenants, tenant: name if mapping else ""})
        return True

    def remove(self, tenant: str) -> bool:
        """Delete the tenant's line from the file."""
        tenant = check_tenant(tenant)
        if tenant not in self._tenants:
            return False
        lines = self.path.read_text("utf-8").splitlines(keepends=True)
        kept = [line for line in lines if tenant not in line.split("#")[0].lower()]
        text = "".join(kept)
        if len(self._tenants) == 1:  # a file without content would keep the tenant known to bridges that run
            text += "[]\n"
        self._rewrite(text, {key: name for key, name in self._tenants.items() if key != tenant})
        return True

    def close(self) -> None:
        """Wait until no thread reads the file."""
        if self._reader is not None:
            self._reader.join()

    def _rewrite(self, text: str, expected: dict[str, str]) -> None:
        """Replace the file atomically, if the new text has the expected tenants."""
        try:
            as_expected = read_yaml(self.path, text.encode()).tenants == expected
        except ConfigError:
            as_expected = False
        if not as_expected:
            raise ConfigError(
                "cannot edit this file line by line",
                where=str(self.path),
                hint="Edit it by hand",
            )
        write_secret(self.path, text, mode=self.path.stat().st_mode & 0o777)
        self._tenants = expected

    def _reload(self) -> None:
        """Start reading the file if it has changed and no thread reads it already."""
        if self._reader is not None and self._reader.is_alive():
            return
        stamp = _stamp(self.path)
        if stamp == self._stamp:
            return
        self._stamp = stamp
        self._reader = threading.Thread(target=self._read_again, name="tenants", daemon=True)
        self._reader.start()

    def _read_again(self) -> None:
        try:
            content = read_yaml(self.path)
        except ConfigError as error:
            logger.warning("the earlier tenants stay known: %s", error)
            return
        if content.kind is TenantsKind.NOTHING and self._tenants:
            logger.warning("the earlier tenants stay known: %s is empty. To remove every tenant, write []", self.path)
            return
        self._tenants = content.tenants
        logger.info("read %d tenants from %s", len(content.tenants), self.path)


class TenantsKind(enum.Enum):
    """The form of a file."""

    NOTHING = "nothing"
    """Empty, or comments only."""
    LIST = "list"
    MAPPING = "mapping"


class TenantsFile(NamedTuple):
    """The content of a file."""

    tenants: dict[str, str]
    """Identifier to name."""
    kind: TenantsKind


def read_yaml(path: Path, text: bytes | None = None) -> TenantsFile:
    """Return the content of the file, or of the text if it is given; raise ConfigError.

    It looks at one parser event at a time: neither nesting nor a value that looks like a date can end the caller.
    """
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        return _read_events(path, yaml.parse(_bytes(path) if text is None else text, Loader=loader))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        raise ConfigError(f"is not YAML: {getattr(error, 'problem', error)}", where=where) from error


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise ConfigError("no such file", where=str(path), hint="Create it with a list of tenant ids (UUIDs)") from None
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", where=str(path)) from error


def _read_events(path: Path, events: Iterator[Any]) -> TenantsFile:
    """Accept one list of scalars, or one mapping of scalars to scalars."""
    kind = TenantsKind.NOTHING
    tenants: dict[str, str] = {}
    key: str | None = None
    for event in events:
        name = type(event).__name__
        if name in _FRAME_EVENTS:
            continue
        where = f"{path}:{event.start_mark.line + 1}"
        if kind is TenantsKind.NOTHING and name in _COLLECTIONS:
            kind = _COLLECTIONS[name]
        elif kind is TenantsKind.NOTHING or name != "ScalarEvent":
            raise ConfigError("expected a list of tenant ids, or a mapping from id to name", where=where)
        elif kind is TenantsKind.LIST:
            tenants[_tenant(event.value, where)] = ""
        elif key is None:
            key = _tenant(event.value, where)
        else:
            tenants[key] = "" if event.implicit[0] and event.value in ("", "~", "null") else event.value
            key = None
    return TenantsFile(tenants, kind)


_FRAME_EVENTS = (
    "StreamStartEvent",
    "DocumentStartEvent",
    "SequenceEndEvent",
    "MappingEndEvent",
    "DocumentEndEvent",
    "StreamEndEvent",
)
_COLLECTIONS = {"SequenceStartEvent": TenantsKind.LIST, "MappingStartEvent": TenantsKind.MAPPING}


def _tenant(text: str, where: str) -> str:
    try:
        return check_tenant(text)
    except UsageError as error:
        raise ConfigError(error.message, where=where, hint=error.hint) from error


def _quoted(text: str) -> str:
    import json

    return json.dumps(text, ensure_ascii=False)


def _stamp(path: Path) -> tuple[int, int, int]:
    try:
        status = path.stat()
    except OSError:
        return (0, 0, 0)
    return (status.st_mtime_ns, status.st_size, status.st_ino)
