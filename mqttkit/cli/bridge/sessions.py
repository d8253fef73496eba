"""`mqttkit bridge sessions`: which sessions the bridges of this machine have at their brokers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from mqttkit.cli.logs import set_up_logging
from mqttkit.cli.options.connection import ConnectionOptions, terse_connection_options
from mqttkit.cli.options.help import CommandGroup
from mqttkit.errors import UsageError

if TYPE_CHECKING:
    from mqttkit.bridge.identity import StoredIdentity


@click.group(cls=CommandGroup)
def sessions() -> None:
    """List and remove the sessions that bridges of this machine have at their brokers."""


@sessions.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object for each session.")
def list_sessions(as_json: bool) -> None:
    """List the sessions, one on each line.

    The columns are client identifier, state, broker, topic filter, sink, and its table, stream or list, separated by
    tabs.

    The states are running, stopped (the broker queues messages for it until it expires) and none (no session).

    \b
    mqttkit bridge sessions list
    """
    from mqttkit.bridge.identity import stored_identities
    from mqttkit.cli.output.render import print_json

    set_up_logging()
    for stored in stored_identities():
        if as_json:
            purpose = dict(zip(("broker", "filter", "sink", "target"), stored.purpose, strict=False))
            print_json({"client_id": stored.client_id, "state": _state(stored), **purpose})
            continue
        click.echo("\t".join((stored.client_id, _state(stored), *stored.purpose)))


@sessions.command()
@click.argument("client_ids", metavar="ID...", nargs=-1, required=True)
@terse_connection_options
def remove(connection: ConnectionOptions, client_ids: tuple[str, ...]) -> None:
    """Remove sessions from the broker.

    The broker deletes the messages that it has queued for them. To store those messages first, run
    `mqttkit bridge leave` instead.

    \b
    mqttkit bridge sessions remove mqttkit-bridge-5a1f0c9d2e7b4c6a8f901234
    """
    from mqttkit.bridge.group import forget_member
    from mqttkit.bridge.identity import stored_identities
    from mqttkit.bridge.session import remove_session

    known = {stored.client_id: stored for stored in stored_identities()}
    for client_id in client_ids:
        stored = known.get(client_id)
        if stored is not None and stored.in_use:
            raise UsageError(f"a bridge runs with the session {client_id}", hint="Stop it first")
        remove_session(connection.settings.mqtt, client_id)
        if stored is not None:
            forget_member(connection.settings.mqtt, stored.topic_filter, client_id)
        click.echo(f"removed {client_id}")


def _state(stored: StoredIdentity) -> str:
    if stored.in_use:
        return "running"
    return "stopped" if stored.had_session else "none"
