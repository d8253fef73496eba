"""Tenants in a SQLite table."""

from __future__ import annotations

import sqlite3

from mqttkit.bridge.tenants.answer_cache import AnswerCache
from mqttkit.bridge.tenants.types import check_tenant
from mqttkit.errors import RegistryUnavailable


class SqliteRegistry:
    """A table `tenants (tenant_id, name)`; it may be in the same file as the metrics."""

    def __init__(self, path: str) -> None:
        from mqttkit.bridge.sinks.sqlite import connect

        self._path = path
        self._cache = AnswerCache()
        self._database = connect(
            path,
            "CREATE TABLE IF NOT EXISTS tenants (tenant_id TEXT PRIMARY KEY, name TEXT NOT NULL DEFAULT '');",
        )

    def known(self, tenants: set[str]) -> set[str]:
        """Return the tenants that are in the table."""
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
