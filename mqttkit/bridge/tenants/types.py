"""What every registry of tenants can do, and what a tenant identifier looks like."""

from __future__ import annotations

import uuid
from typing import Protocol

from mqttkit.errors import UsageError


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


def check_tenant(text: str) -> str:
    """Return a tenant identifier in lower case; raise UsageError if it is no UUID."""
    try:
        return str(uuid.UUID(text if len(text) == 36 else ""))
    except ValueError:
        raise UsageError(f"tenant {text!r} is no UUID", hint="Such as: 6f1d7c1e-0000-4000-8000-000000000001") from None
