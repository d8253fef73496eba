"""The protocol of a registry of tenants, and the form of a tenant identifier."""

from __future__ import annotations

import uuid
from typing import Protocol

from mqttkit.errors import UsageError


class TenantRegistry(Protocol):
    """The tenants that may store metrics. Use it from one thread at a time. Identifiers are lower-case UUIDs."""

    def known(self, tenants: set[str]) -> set[str]:
        """Return the tenants that are known; raise RegistryUnavailable."""
        ...

    def all(self) -> dict[str, str]:
        """Return every tenant with its name, which may be empty."""
        ...

    def add(self, tenant: str, name: str = "") -> bool:
        """Add a tenant; return False if it was known."""
        ...

    def remove(self, tenant: str) -> bool:
        """Remove a tenant; return False if it was not known."""
        ...

    def close(self) -> None:
        """Close it; may be called twice."""
        ...


def check_tenant(text: str) -> str:
    """Return a tenant identifier in lower case; raise UsageError if it is not a UUID."""
    try:
        return str(uuid.UUID(text if len(text) == 36 else ""))
    except ValueError:
        example = "6f1d7c1e-0000-4000-8000-000000000001"
        raise UsageError(f"tenant {text!r} is not a UUID", hint=f"Example: {example}") from None
