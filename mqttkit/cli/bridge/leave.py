"""`mqttkit bridge leave`."""

from __future__ import annotations

import click

from mqttkit.cli.bridge.options import bridge_options
from mqttkit.cli.options.connection import ConnectionOptions, connection_options
from mqttkit.cli.options.help import GroupedCommand
from mqttkit.cli.signals import drain_on_signal


@click.command(cls=GroupedCommand, default_qos="", session_seconds=604_800)
@bridge_options
@connection_options
def leave(connection: ConnectionOptions) -> int:
    """End the session of a bridge that is stopped; give the options of its `run`.

    The command unsubscribes, commits the messages that the broker has queued for the bridge, and removes the
    session. Run it for a member of a group that will not come back: the broker keeps its share of the messages
    otherwise.

    \b
    mqttkit bridge leave --group ingest --sink sqlite:metrics.db --tenants tenants.yaml
    """
    from mqttkit.bridge.outputs.supervisor import bridge_service
    from mqttkit.bridge.service import RunOptions

    service = bridge_service(connection.settings, RunOptions(retry=connection.retry, leave=True))
    drain_on_signal(service.stop)
    return service.run()
