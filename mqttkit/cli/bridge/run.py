"""`mqttkit bridge run`."""

from __future__ import annotations

import click

from mqttkit.cli.bridge.options import bridge_options
from mqttkit.cli.options.connection import ConnectionOptions, connection_options
from mqttkit.cli.options.help import GroupedCommand
from mqttkit.cli.signals import drain_on_signal
from mqttkit.errors import UsageError


@click.command(cls=GroupedCommand, default_qos="", session_seconds=604_800)
@bridge_options
@connection_options
def run(connection: ConnectionOptions) -> int:
    """Run the bridge until SIGTERM or Ctrl-C, which drain it; a second signal ends it immediately.

    With several --sink, each sink gets every metric, with its own session and progress. Exit code 0: every metric
    received is committed and acknowledged. 75: memory.max was reached.

    \b
    mqttkit bridge run --sink sqlite:metrics.db --tenants tenants.yaml
    mqttkit bridge run --sink sqlite:metrics.db --sink redis://localhost --tenants tenants.yaml
    """
    from mqttkit.bridge.outputs.supervisor import bridge_service
    from mqttkit.bridge.service import RunOptions

    if connection.url_topic is not None:
        raise UsageError("-L must not contain a topic here", hint="Set the topic with --topic")
    service = bridge_service(connection.settings, RunOptions(retry=connection.retry, will=connection.will))
    drain_on_signal(service.stop)
    return service.run()
