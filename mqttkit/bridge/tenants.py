"""The registry of known tenants: a YAML file, a SQLite file or a Redis set."""

from __future__ import annotations

import logging
import os
import sqlite3
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from mqttkit.errors import BridgeError, ConfigError, RegistryUnavailable, UsageError

logger = logging.getLogger(__name__)

CACHE_ENTRIES = 10_000
"""Answers remembered, known and unknown together."""
KNOWN_SECONDS = 30.0
"""How long a tenant removed may still be accepted."""
UNKNOWN_SECONDS = 2.0
"""How long a tenant added may still be refused."""
CHECK_SECONDS = 1.0
"""How often a YAML file is looked at."""

DEFAULT_SET = "mqttkit:tenants"


class TenantRegistry(Protocol):
    """Who may store metrics. One thread at a time. Identifiers are UUIDs in lower case."""

    def known(self, tenants: set[str]) -> set[str]:
        """Return those of the tenants that are known; raise RegistryUnavailable."""
        ...

    def all(self) -> dict[str, str]:
        """Return every tenant with its name, empty where it has none."""
        ...

    def add(self, tenant: str, name: str = "") -> bool:
        """Make a tenant known; False if it was."""
        ...

    def remove(self, tenant: str) -> bool:
        """Forget a tenant; False if it was not known."""
        ...

    def close(self) -> None:
        """Let go; idempotent."""
        ...


def open_registry(address: str) -> TenantRegistry:
    """Return the registry of an address: a YAML file's path, sqlite:PATH, or redis://…#SET."""
    if address.startswith("sqlite:"):
        return SqliteRegistry(address.removeprefix("sqlite:").removeprefix("//"))
    if address.split("://", maxsplit=1)[0].startswith(("redis", "unix")) and "://" in address:
        return RedisRegistry(address)
    return YamlRegistry(Path(address).expanduser())


def check_tenant(text: str) -> str:
    """Return a tenant identifier in lower case; raise UsageError if it is no UUID."""
    try:
        return str(uuid.UUID(text if len(text) == 36 else ""))
    except ValueError:
        raise UsageError(f"tenant {text!r} is no UUID", hint="Such as: 6f1d7c1e-0000-4000-8000-000000000001") from None


class AnswerCache:
    """Remember answers of a slow registry, a bounded number for a bounded time."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, entries: int = CACHE_ENTRIES) -> None:
        self._clock = clock
        self._entries = entries
        self._answers: OrderedDict[str, tuple[bool, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._answers)

    def known(self, tenants: set[str], ask: Callable[[list[str]], set[str]]) -> set[str]:
        """Return the known ones; `ask` answers for those that are not remembered."""
        now = self._clock()
        found: set[str] = set()
        missing: list[str] = []
        for tenant in tenants:
            is_known, until = self._answers.get(tenant, (False, -1.0))
            if until < now:
                missing.append(tenant)
            elif is_known:
                found.add(tenant)
        if missing:
            answered = ask(missing)
            found |= answered
            for tenant in missing:
                self._remember(tenant, tenant in answered, now)
        return found

    def _remember(self, tenant: str, is_known: bool, now: float) -> None:
        self._answers.pop(tenant, None)
        self._answers[tenant] = (is_known, now + (KNOWN_SECONDS if is_known else UNKNOWN_SECONDS))
        if len(self._answers) > self._entries:
            self._answers.popitem(last=False)


class YamlRegistry:
    """A list of identifiers, or a mapping of identifier to name; read again when the file changes."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self.path = path
        self._clock = clock
        self._stamp = _stamp(path)
        self._tenants = read_yaml(path)
        self._checked = clock()

    def known(self, tenants: set[str]) -> set[str]:
        """Return those of the tenants that the file names; an unreadable one changes nothing."""
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
        """Take the tenant's line out of the file."""
        tenant = check_tenant(tenant)
        if tenant not in self._tenants:
            return False
        lines = self.path.read_text("utf-8").splitlines(keepends=True)
        kept = [line for line in lines if tenant not in line.split("#")[0].lower()]
        self._rewrite("".join(kept), {key: name for key, name in self._tenants.items() if key != tenant})
        return True

    def close(self) -> None:
        """Nothing is held."""

    def _rewrite(self, text: str, expected: dict[str, str]) -> None:
        """Put the text in the file's place at once, if it says what is expected."""
        draft = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        try:
            draft.write_text(text, "utf-8")
            draft.chmod(self.path.stat().st_mode & 0o777)
            try:
                as_expected = read_yaml(draft) == expected
            except ConfigError:
                as_expected = False
            if not as_expected:
                raise ConfigError(
                    "the file's form is too free to be edited here",
                    where=str(self.path),
                    hint="Edit it by hand",
                )
            draft.replace(self.path)
        finally:
            draft.unlink(missing_ok=True)
        self._tenants = expected

    def _reload(self) -> None:
        stamp = _stamp(self.path)
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._tenants = read_yaml(self.path)
        except ConfigError as error:
            logger.warning("the tenants known before stay in force: %s", error)
        else:
            logger.info("read %d tenants again from %s", len(self._tenants), self.path)


def read_yaml(path: Path) -> dict[str, str]:
    """Return identifier to name; raise ConfigError."""
    content = _load(path)
    if content is None:
        return {}
    if isinstance(content, list):
        content = dict.fromkeys((str(entry) for entry in content), "")
    if not isinstance(content, dict):
        raise ConfigError("expected a list of tenant ids, or a mapping of id to name", where=str(path))
    try:
        return {check_tenant(str(key)): str(name or "") for key, name in content.items()}
    except UsageError as error:
        raise ConfigError(error.message, where=str(path), hint=error.hint) from error


def _load(path: Path) -> Any:
    import yaml

    try:
        return yaml.safe_load(path.read_bytes())
    except FileNotFoundError:
        raise ConfigError("no such file", where=str(path), hint="Write it: a list of tenant ids (UUIDs)") from None
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", where=str(path)) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        raise ConfigError(f"is no YAML: {getattr(error, 'problem', error)}", where=where) from error


def _quoted(text: str) -> str:
    import json

    return json.dumps(text, ensure_ascii=False)


def _stamp(path: Path) -> tuple[int, int, int]:
    try:
        status = path.stat()
    except OSError:
        return (0, 0, 0)
    return (status.st_mtime_ns, status.st_size, status.st_ino)


class SqliteRegistry:
    """A table `tenants (tenant_id, name)`; it may be in the file that the metrics go to."""

    def __init__(self, path: str) -> None:
        from mqttkit.bridge.sqlite_sink import connect

        self._path = path
        self._cache = AnswerCache()
        self._database = connect(
            path,
            "CREATE TABLE IF NOT EXISTS tenants (tenant_id TEXT PRIMARY KEY, name TEXT NOT NULL DEFAULT '');",
        )

    def known(self, tenants: set[str]) -> set[str]:
        """Return those of the tenants that the table has."""
        return self._cache.known(tenants, self._ask)

    def all(self) -> dict[str, str]:
        """Return every tenant with its name."""
        return dict(self._run("SELECT tenant_id, name FROM tenants ORDER BY tenant_id").fetchall())

    def add(self, tenant: str, name: str = "") -> bool:
        """Insert a row."""
        query = "INSERT INTO tenants (tenant_id, name) VALUES (?, ?) ON CONFLICT DO NOTHING"
        return self._run(query, check_tenant(tenant), name).rowcount == 1

    def remove(self, tenant: str) -> bool:
        """Delete a row."""
        return self._run("DELETE FROM tenants WHERE tenant_id = ?", check_tenant(tenant)).rowcount == 1

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def _ask(self, tenants: list[str]) -> set[str]:
        query = "SELECT 1 FROM tenants WHERE tenant_id = ?"
        return {tenant for tenant in tenants if self._run(query, tenant).fetchone()}

    def _run(self, query: str, *values: str) -> sqlite3.Cursor:
        try:
            return self._database.execute(query, values)
        except sqlite3.Error as error:
            raise RegistryUnavailable(f"tenants in {self._path}: {error}") from error


class RedisRegistry:
    """A set of identifiers: redis://…#NAME, mqttkit:tenants where no name is given."""

    def __init__(self, address: str) -> None:
        from mqttkit.bridge.redis_client import connect_redis, redacted

        address, _, name = address.partition("#")
        self._name = name or DEFAULT_SET
        self._where = f"tenants in {redacted(address)}#{self._name}"
        self._cache = AnswerCache()
        self._client: Any = connect_redis(address, timeout=5.0)

    def known(self, tenants: set[str]) -> set[str]:
        """Return those of the tenants that the set has."""
        return self._cache.known(tenants, self._ask)

    def all(self) -> dict[str, str]:
        """Return every tenant; a set has no names."""
        return dict.fromkeys(sorted(self._run("smembers", self._name)), "")

    def add(self, tenant: str, name: str = "") -> bool:
        """Add a member; a set keeps no name, so one given is a UsageError."""
        if name:
            raise UsageError("a Redis set keeps no names", hint="Leave the name out")
        return bool(self._run("sadd", self._name, check_tenant(tenant)))

    def remove(self, tenant: str) -> bool:
        """Remove a member."""
        return bool(self._run("srem", self._name, check_tenant(tenant)))

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def _ask(self, tenants: list[str]) -> set[str]:
        answers = self._run("smismember", self._name, tenants)
        return {tenant for tenant, answer in zip(tenants, answers, strict=True) if answer}

    def _run(self, command: str, *values: Any) -> Any:
        from mqttkit.bridge.redis_client import translated

        try:
            with translated(self._where):
                return getattr(self._client, command)(*values)
        except BridgeError as error:
            raise RegistryUnavailable(error.message) from error
