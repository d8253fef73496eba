"""`mqttkit bridge dev`."""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mqttkit.cli.bridge.options import bridge_options
from mqttkit.cli.bridge.stores import opened_registry
from mqttkit.cli.logs import set_up_logging
from mqttkit.cli.options.help import GroupedCommand
from mqttkit.cli.options.loading import config_option, load_without_broker
from mqttkit.cli.options.numbers import PORT
from mqttkit.errors import UsageError

if TYPE_CHECKING:
    from mqttkit.broker.profile import Profile
    from mqttkit.settings import BridgeSettings, Settings

EXAMPLE_TENANT = "6f1d7c1e-0000-4000-8000-000000000001"
DEFAULT_SINK = "sqlite:metrics.db"


@click.command(cls=GroupedCommand)
@click.option("-p", "--port", type=PORT, default=None, help="Port of the broker.  [a free one]")
@click.option(
    "--backend",
    type=click.Choice(["auto", "docker", "process", "embedded"]),
    default="auto",
    help="Broker to start: in Docker, the installed mosquitto, or embedded.  [auto: the first available]",
)
@bridge_options
@config_option
@click.option("-d", "--debug", is_flag=True, help="Log everything on stderr.")
def dev(port: int | None, backend: str, config: str | None, debug: bool) -> int:
    """Start a broker and a bridge together, for work on this machine, and stop both with Ctrl-C.

    The broker is temporary: it listens on loopback without passwords, and is removed at the end. What the bridge has
    stored stays. Without --sink it is in metrics.db; without --tenants there is one example tenant.

    \b
    mqttkit bridge dev
    """
    from mqttkit.bridge.outputs.supervisor import bridge_service
    from mqttkit.bridge.service import RunOptions
    from mqttkit.broker.lifecycle import run_temporary
    from mqttkit.cli.signals import interrupts_raise, on_interrupt

    set_up_logging(debug=debug)
    settings = load_without_broker(config)
    with (
        interrupts_raise(),
        _completed(settings.bridge) as bridge,
        run_temporary(port=port or 0, backend=backend, anonymous=True) as (_, profile),
    ):
        service = bridge_service(_connected(settings, bridge, profile), RunOptions())
        for line in _introduction(bridge, profile):
            click.echo(line)
        with on_interrupt(service.stop):
            return service.run()


@contextlib.contextmanager
def _completed(bridge: BridgeSettings) -> Iterator[BridgeSettings]:
    """Yield the settings with a sink and tenants."""
    with tempfile.TemporaryDirectory(prefix="mqttkit-dev-") as directory:
        tenants = Path(directory, "tenants.yaml")
        tenants.write_text(f"{EXAMPLE_TENANT}: Example\n", "utf-8")
        sink = bridge.sink if bridge.sink or bridge.outputs else DEFAULT_SINK
        yield dataclasses.replace(bridge, sink=sink, tenants=bridge.tenants or str(tenants))


def _connected(settings: Settings, bridge: BridgeSettings, profile: Profile) -> Settings:
    """Return settings for this broker. A fixed client identifier leaves no record of a session behind."""
    client = dataclasses.replace(settings.mqtt.client, client_id="mqttkit-bridge-dev", version=profile.version)
    mqtt = dataclasses.replace(settings.mqtt, broker=profile.to_broker_settings(), client=client)
    return dataclasses.replace(settings, mqtt=mqtt, bridge=bridge)


def _introduction(bridge: BridgeSettings, profile: Profile) -> list[str]:
    """Return where everything is, and a command that stores a metric."""
    with opened_registry(bridge) as registry:
        tenant = next(iter(registry.all()), None)
    if tenant is None:
        raise UsageError("the registry has no tenant", hint="Add one: mqttkit bridge tenant add UUID")
    sinks = [bridge.sink] if bridge.sink else [output.sink for output in bridge.outputs]
    places = ", ".join((sink or "").rpartition("@")[2] for sink in sinks)
    topic = bridge.topic.format(tenant_id=tenant, agent_id="agent-1", metric_name="temperature")
    return [
        f"broker: {profile.backend} on {profile.host}:{profile.port}",
        f"metrics go to {places}; try:",
        f"  mqttkit pub -p {profile.port} -q 1 -t {topic} -m '{{\"value\": 21.5}}'",
    ]
