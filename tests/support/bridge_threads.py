"""A bridge that runs in a thread of the test's process."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mqttkit.bridge.service import Bridge, RunOptions
from mqttkit.settings import BridgeSettings, Settings
from tests.support.bridges import TENANT, mqtt_settings, wait_until


class BridgeThread(threading.Thread):
    """Runs a bridge; keeps its exit code, or the error that ended it."""

    def __init__(self, bridge: Bridge) -> None:
        super().__init__(daemon=True)
        self.bridge = bridge
        self.code: int | None = None
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            self.code = self.bridge.run()
        except BaseException as error:
            self.error = error

    @property
    def is_subscribed(self) -> bool:
        """True once the broker has granted the subscription of this connection."""
        bridge = self.bridge
        return hasattr(bridge, "pipeline") and bridge.client.connected and not bridge._keeper.problems()

    def end(self) -> None:
        """Stop it and wait."""
        self.bridge.stop()
        self.join(60)
        assert not self.is_alive()


def bridge_settings(directory: Path, port: int, *, client: dict[str, Any] | None = None, **bridge: Any) -> Settings:
    """Settings of a bridge with a SQLite sink and one known tenant."""
    directory.mkdir(parents=True, exist_ok=True)
    tenants = directory / "tenants.yaml"
    if not tenants.exists():
        tenants.write_text(f"- {TENANT}\n")
    given = {"sink": f"sqlite:{directory / 'metrics.db'}", "tenants": str(tenants), **bridge}
    mqtt = mqtt_settings(port, **(client or {}))
    fast = dataclasses.replace(mqtt.reconnect, initial_delay=0.2)
    return Settings(mqtt=dataclasses.replace(mqtt, reconnect=fast), bridge=BridgeSettings(**given))


@contextlib.contextmanager
def running_bridge(settings: Settings, *, ready: bool = True, leave: bool = False) -> Iterator[BridgeThread]:
    """Run a bridge and wait until it is ready; stop it at the end."""
    thread = BridgeThread(Bridge(settings, RunOptions(leave=leave)))
    thread.start()
    try:
        if ready:
            wait_until(lambda: thread.bridge.ready or not thread.is_alive(), what="the bridge to be ready")
            assert thread.error is None, thread.error
        yield thread
    finally:
        thread.end()
