"""`mqttkit controller watch`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable

import click

from mqttkit.cli.controller.options import controller_options
from mqttkit.cli.options.connection import ConnectionOptions, connection_options
from mqttkit.cli.options.help import GroupedCommand
from mqttkit.cli.options.numbers import SOME_SECONDS

ONCE_SECONDS = 2.0


@click.command(cls=GroupedCommand, default_qos="")
@controller_options
@click.option("--json", "as_json", is_flag=True, help="Print a JSON line each time a controller is heard.")
@click.option("--once", is_flag=True, help="Print the known controllers after --duration (2 s), then end.")
@click.option("--duration", type=SOME_SECONDS, help="End after this time.")
@connection_options
def watch(*, connection: ConnectionOptions, as_json: bool, once: bool, duration: float | None) -> None:
    """Show each controller: status, last heartbeat, transport, reports, policy versions.

    A live table on a terminal, otherwise a line for each heartbeat, and when a controller becomes silent. A policy
    with `!` is in force, but the controller cannot apply it.

    \b
    mqttkit controller watch
    """
    from mqttkit.cli.controller.live_table import COLUMNS, DROP, cells, live_table
    from mqttkit.cli.output.render import on_terminal, print_table
    from mqttkit.cli.signals import on_interrupt
    from mqttkit.controller.watcher import ControllerWatcher

    settings = connection.settings
    if once and duration is None:
        duration = ONCE_SECONDS
    with ControllerWatcher(settings.controller, settings.mqtt) as watcher, on_interrupt(watcher.stop):
        changes = watcher.changes(duration)
        if once:
            _wait(changes)
        elif on_terminal() and not as_json:
            live_table(watcher.book, changes)
        else:
            for row in changes:
                _print_line(json.dumps(row) if as_json else "  ".join(cell for cell in cells(row) if cell))
    if once and as_json:
        for row in watcher.book.rows():
            _print_line(json.dumps(row))
    elif once:
        print_table(COLUMNS, [cells(row) for row in watcher.book.rows()], optional=DROP)


def _wait(changes: Iterable[object]) -> None:
    for _ in changes:
        pass


def _print_line(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
