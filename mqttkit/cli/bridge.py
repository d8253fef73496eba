"""`mqttkit bridge`: metrics from MQTT into a sink."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from types import FrameType
from typing import Any

import click

from mqttkit.cli.options import Connection, connection_options
from mqttkit.settings import BridgeSettings, Settings

INTERRUPTED = 130


@click.group()
def bridge() -> None:
    """Move metrics from MQTT into a sink: nothing lost, everything accounted for.

    Subscribes to metrics/{tenant_id}/{agent_id}/{metric_name}, checks each JSON payload, commits in
    batches, and acknowledges only what is committed.
    """


def bridge_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say where metrics go; `overlay` puts them into the settings."""
    options = [
        click.option("--sink", help="sqlite:PATH, redis://…, postgresql://…, http(s)://… or jsonl:PATH."),
        click.option("--tenants", help="Known tenants: a YAML file, sqlite:PATH or redis://…#SET."),
        click.option("--topic", help="Topic template.  [metrics/{tenant_id}/{agent_id}/{metric_name}]"),
        click.option("--group", help="Share the load with other bridges of this name."),
        click.option("--stream", help="Redis: the stream's name.  [mqttkit:metrics]"),
        click.option("--list", help="Redis: push jobs onto this list instead."),
        click.option("--job", help="Redis list: the job's name.  [StoreMetric]"),
        click.option("--live/--no-live", default=None, help="Redis: publish on metrics:{tenant_id}.  [live]"),
        click.option("--dead-letters", help="SQLite file for the dead letters of http and jsonl."),
        click.option("--token-file", help="HTTP: file whose first line is the bearer token."),
        click.option("--health-port", type=click.IntRange(0, 65_535), help="Serve /livez, /readyz, /metrics."),
        click.option("--health-host", help="Address to serve them on.  [127.0.0.1]"),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def overlay(settings: Settings, given: dict[str, Any]) -> Settings:
    """Lay flags that were given over the settings."""
    flags = {name: value for name, value in given.items() if value is not None}
    changed: BridgeSettings = replace(settings.bridge, **flags)
    return replace(settings, bridge=changed)


@bridge.command()
@bridge_options
@connection_options
def run(connection: Connection, **given: Any) -> int:
    """Run the bridge until SIGTERM or Ctrl-C, which drain it; a second one ends it at once.

    Exit code 0: all that was taken is committed and acknowledged. 75: memory.max was reached.
    """
    from mqttkit.bridge.service import Bridge

    service = Bridge(overlay(connection.settings, given), retry=connection.retry)
    on_signals(service.stop)
    return service.run()


def on_signals(stop: Callable[[], None]) -> None:
    """Call `stop` at the first SIGTERM or SIGINT; end the process at the second."""

    def handle(_number: int, _frame: FrameType | None) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda _number, _frame: os._exit(INTERRUPTED))
        stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, handle)
