"""Tenants in a Redis set."""

from __future__ import annotations

from typing import Any

from mqttkit.bridge.tenants.answer_cache import AnswerCache
from mqttkit.bridge.tenants.types import check_tenant
from mqttkit.errors import BridgeError, RegistryUnavailable, UsageError

DEFAULT_SET = "mqttkit:tenants"


class RedisRegistry:
    """A set of identifiers: redis://…#NAME. The default name is mqttkit:tenants."""

    def __init__(self, address: str) -> None:
        from mqttkit.bridge.sinks.redis_connection import connect_redis, redacted

        address, _, name = address.partition("#")
        self._name = name or DEFAULT_SET
        self._where = f"tenants in {redacted(address)}#{self._name}"
        self._cache = AnswerCache()
        self._client: Any = connect_redis(address, timeout=5.0)

    def known(self, tenants: set[str]) -> set[str]:
        """Return the tenants that are members of the set."""
        return self._cache.known(tenants, self._ask)

    def all(self) -> dict[str, str]:
        """Return every tenant; a set stores no names."""
        return dict.fromkeys(sorted(self._run("smembers", self._name)), "")

    def add(self, tenant: str, name: str = "") -> bool:
        """Add a member; raise UsageError for a name, because a set stores no names."""
        if name:
            raise UsageError("a Redis set stores no names", hint="Omit --name")
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
        from mqttkit.bridge.sinks.redis_connection import translated

        try:
            with translated(self._where):
                return getattr(self._client, command)(*values)
        except BridgeError as error:
            raise RegistryUnavailable(error.message) from error
