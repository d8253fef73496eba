"""Tenants in a YAML file, which is read again when it changes."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mqttkit.bridge.tenants.types import check_tenant
from mqttkit.errors import ConfigError, UsageError
from mqttkit.files import write_secret

logger = logging.getLogger(__name__)

CHECK_SECONDS = 1.0
"""Seconds between checks whether the file has changed."""


class YamlRegistry:
    """A list of identifiers, or a mapping of identifier to name; read again when the file changes."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self.path = path
        self._clock = clock
        self._stamp = _stamp(path)
        self._tenants = read_yaml(path)
        self._checked = clock()

    def known(self, tenants: set[str]) -> set[str]:
        """Return the tenants that are in the file. If the file cannot be read, the earlier tenants stay known."""
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
        mapping = isinstance(_load(self.path), dict)
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
        self._rewrite("".join(kept), {key: name for key, name in self._tenants.items() if key != tenant})
        return True

    def close(self) -> None:
        """Do nothing: no file stays open."""

    def _rewrite(self, text: str, expected: dict[str, str]) -> None:
        """Replace the file atomically, if the new text has the expected tenants."""
        try:
            as_expected = read_yaml(self.path, text.encode()) == expected
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
        stamp = _stamp(self.path)
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._tenants = read_yaml(self.path)
        except ConfigError as error:
            logger.warning("the earlier tenants stay known: %s", error)
        else:
            logger.info("read %d tenants from %s", len(self._tenants), self.path)


def read_yaml(path: Path, text: bytes | None = None) -> dict[str, str]:
    """Return identifier to name, from the text if it is given; raise ConfigError."""
    content = _load(path, text)
    if content is None:
        return {}
    if isinstance(content, list):
        content = dict.fromkeys((str(entry) for entry in content), "")
    if not isinstance(content, dict):
        raise ConfigError("expected a list of tenant ids, or a mapping from id to name", where=str(path))
    try:
        return {check_tenant(str(key)): str(name or "") for key, name in content.items()}
    except UsageError as error:
        raise ConfigError(error.message, where=str(path), hint=error.hint) from error


def _load(path: Path, text: bytes | None = None) -> Any:
    import yaml

    try:
        return yaml.safe_load(path.read_bytes() if text is None else text)
    except FileNotFoundError:
        raise ConfigError("no such file", where=str(path), hint="Create it with a list of tenant ids (UUIDs)") from None
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", where=str(path)) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        raise ConfigError(f"is not YAML: {getattr(error, 'problem', error)}", where=where) from error


def _quoted(text: str) -> str:
    import json

    return json.dumps(text, ensure_ascii=False)


def _stamp(path: Path) -> tuple[int, int, int]:
    try:
        status = path.stat()
    except OSError:
        return (0, 0, 0)
    return (status.st_mtime_ns, status.st_size, status.st_ino)
