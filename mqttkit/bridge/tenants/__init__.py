"""The registry of tenants that may store metrics; `open_registry` opens it by address."""

from __future__ import annotations

from pathlib import Path

from mqttkit.bridge.tenants.types import TenantRegistry


def open_registry(address: str) -> TenantRegistry:
    """Open the registry at an address: a YAML file's path, sqlite:PATH, or redis://…#SET."""
    if address.startswith("sqlite:"):
        from mqttkit.bridge.tenants.sqlite import SqliteRegistry

        return SqliteRegistry(address.removeprefix("sqlite:").removeprefix("//"))
    if address.split("://", maxsplit=1)[0].startswith(("redis", "unix")) and "://" in address:
        from mqttkit.bridge.tenants.redis import RedisRegistry

        return RedisRegistry(address)
    from mqttkit.bridge.tenants.yaml_file import YamlRegistry

    return YamlRegistry(Path(address).expanduser())
