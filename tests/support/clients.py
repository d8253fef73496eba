"""Settings and waiting for tests that use MqttClient."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from mqttkit.settings import BrokerSettings, ClientSettings, LimitSettings, MqttSettings, ReconnectSettings


def settings_for(port: int, *, host: str = "127.0.0.1", **fields: Any) -> MqttSettings:
    """Return settings for a loopback broker; each field goes to the group of settings that has it."""
    groups: dict[type, dict[str, Any]] = {
        BrokerSettings: {"host": host, "port": port},
        ClientSettings: {},
        ReconnectSettings: {"initial_delay": 0.1, "jitter": False},
        LimitSettings: {},
    }
    for name, value in fields.items():
        owner = next(kind for kind in groups if name in kind.__dataclass_fields__)
        groups[owner][name] = value
    return MqttSettings(
        broker=BrokerSettings(**groups[BrokerSettings]),
        client=ClientSettings(**groups[ClientSettings]),
        reconnect=ReconnectSettings(**groups[ReconnectSettings]),
        limits=LimitSettings(**groups[LimitSettings]),
    )


def wait_until(condition: Callable[[], Any], seconds: float = 60.0) -> Any:
    """Return what `condition` returns once it is true; fail after `seconds`."""
    deadline = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < deadline, "what was waited for did not come"
        time.sleep(0.01)
    return result
