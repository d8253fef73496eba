"""Opens the registry of tenants and the sink that the settings name."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from mqttkit.errors import UsageError
from mqttkit.settings import BridgeSettings

if TYPE_CHECKING:
    from mqttkit.bridge.sinks.types import Sink
    from mqttkit.bridge.tenants.types import TenantRegistry


@contextlib.contextmanager
def opened_registry(bridge: BridgeSettings) -> Iterator[TenantRegistry]:
    """Open the registry of tenants; raise UsageError if the settings name none."""
    from mqttkit.bridge.tenants import open_registry

    if not bridge.tenants:
        raise UsageError("no tenants given", hint="Example: --tenants tenants.yaml")
    with contextlib.closing(open_registry(bridge.tenants)) as registry:
        yield registry


@contextlib.contextmanager
def opened_sink(bridge: BridgeSettings) -> Iterator[Sink]:
    """Open the sink with its dead letters; raise UsageError if the settings name none."""
    from mqttkit.bridge.outputs.plan import chosen_sink
    from mqttkit.bridge.sinks import open_sink, sink_options

    bridge = chosen_sink(bridge)
    if not bridge.sink:
        raise UsageError("no sink given", hint="Example: --sink sqlite:metrics.db")
    with contextlib.closing(open_sink(bridge.sink, sink_options(bridge))) as sink:
        sink.open_letters()
        yield sink
