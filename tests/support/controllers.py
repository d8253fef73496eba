"""Controllers for tests: keys, settings and waiting."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mqttkit.controller.security.keys import KeyFile, KeyRing, generate
from mqttkit.settings import BrokerSettings, ControllerSettings, MqttSettings, ReconnectSettings


def eventually(holds: Callable[[], object], seconds: float = 60.0) -> None:
    """Wait until `holds()` is true; fail after `seconds`."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"not so within {seconds} s"
        time.sleep(0.02)


def make_keys(directory: Path) -> Path:
    """Write a key ring with one active key and return its file."""
    path = directory / "keys.json"
    if not path.exists():
        KeyFile(path).save(KeyRing().add(generate("k1")).activate("k1"))
    return path


def settings_of(directory: Path, controller_id: str, **changes: Any) -> ControllerSettings:
    """Settings of a controller whose state lies in `directory`."""
    fields: dict[str, Any] = {
        "id": controller_id,
        "key_file": str(make_keys(directory)),
        "state_file": str(directory / f"{controller_id}.db"),
        "heartbeat_interval": 0.5,
        "poll_interval": 0.1,
        "transports": ("mqtt",),
    }
    return ControllerSettings(**{**fields, **changes})


def broker_at(port: int) -> MqttSettings:
    """A broker on loopback, reconnected to quickly."""
    return MqttSettings(
        broker=BrokerSettings(host="127.0.0.1", port=port),
        reconnect=ReconnectSettings(initial_delay=0.2, max_delay=1.0),
    )
