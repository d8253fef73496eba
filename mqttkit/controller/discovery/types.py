"""What a discovery source returns, and how devices are told apart. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

from mqttkit.errors import MqttkitError

Device = Mapping[str, Any]
"""One device: JSON values by name. `id`, or else `mac`, or else `ip` distinguishes it from others."""
Found = Mapping[str, Any] | Iterable[Device]
"""What a discovery function returns: devices, or a report with a list of `devices` and anything else."""
Discover = Callable[[], Found]
VOLATILE = frozenset({"rtt_ms", "state", "seen"})
"""Fields that differ from scan to scan; a difference in them does not make a device a changed one."""
MAX_KEY = 200


class DiscoveryFailed(MqttkitError):
    """A scan found nothing out: its command failed, or the network is not there."""


class DiscoverySource(Protocol):
    """A discovery function that may hold a process."""

    def __call__(self) -> Found:
        """Scan once; raise DiscoveryFailed."""
        ...

    def close(self) -> None:
        """End a scan that another thread runs."""
        ...


def device_key(device: object) -> str:
    """Return what distinguishes a device from others; empty if nothing does."""
    if not isinstance(device, Mapping):
        return ""
    for name in ("id", "mac", "ip"):
        value = device.get(name)
        if isinstance(value, str) and value:
            return value[:MAX_KEY]
    return ""


def to_report(found: Found) -> dict[str, Any]:
    """Return a report of what a discovery function has found; raise DiscoveryFailed if it is not devices."""
    report = dict(found) if isinstance(found, Mapping) else {"devices": list(found)}
    devices = report.get("devices")
    if not isinstance(devices, list):
        raise DiscoveryFailed("the discovery found no list of devices")
    wrong = next((one for one in devices if not device_key(one)), None)
    if wrong is not None:
        raise DiscoveryFailed(f"a device needs an id, mac or ip: {str(wrong)[:200]}")
    return report
