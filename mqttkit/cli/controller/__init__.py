"""`mqttkit controller`: network controllers that coordinate over publish/subscribe."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from mqttkit.cli.flags import flag_option
from mqttkit.cli.lazy import Entry, LazyGroup
from mqttkit.cli.options import Connection, connection_options, terse_connection_options

Command = TypeVar("Command", bound=Callable[..., Any])

COMMANDS = {
    "simulate": Entry(__name__, "simulate", "Run the whole story in numbered steps."),
    "local": Entry("mqttkit.cli.controller.run", "local", "Run a local controller: it reports a subnet's devices."),
    "regional": Entry("mqttkit.cli.controller.run", "regional", "Run a regional controller: it receives reports."),
    "global": Entry("mqttkit.cli.controller.run", "global_", "Run a global controller: it publishes policies."),
    "watch": Entry(__name__, "watch_command", "Show which controllers are there."),
    "key": Entry("mqttkit.cli.controller.keys", "key", "Keep the ring of signing keys."),
}


@click.group(cls=LazyGroup, entries=COMMANDS)
def controller() -> None:
    """Run and watch network controllers: local, regional, global."""


def controller_options(command: Command) -> Command:
    """Add the options that each command about controllers has; they arrive in the settings."""
    options = [
        flag_option("--region", "controller.region", help="Region.  [zone-A]"),
        flag_option("--base", "controller.base", help="First level of all topics.  [pdsno]"),
        flag_option("--key-file", "controller.key_file", type=click.Path(), help="Key ring.  [in the user's state]"),
        flag_option("--unsigned", "controller.unsigned", is_flag=True, help="Neither sign nor verify."),
    ]
    for option in reversed(options):
        command = option(command)
    return command


@click.command()
@controller_options
@click.option("--locals", "count", type=click.IntRange(1, 1_000), default=1, help="Local controllers.  [1]")
@click.option("--subnet", default="192.168.{number}.0/24", help="Subnet of each; {number} counts from 1.")
@click.option("--seed", type=int, default=0, help="The same seed, the same devices.  [0]")
@click.option("--timeout", type=click.FloatRange(0.1), default=10.0, help="Seconds to wait for each step.  [10]")
@terse_connection_options
def simulate(*, connection: Connection, count: int, subnet: str, seed: int, timeout: float) -> int:
    """Run a regional and local controllers against the broker, in numbered steps.

    Broker checked; infrastructure ready; regional controller connected and subscribed; local controllers
    connected; a discovery cycle of simulated ARP, ICMP and SNMP scans; each report received and matched.
    Exit code 1 where a report is missing.
    """
    from mqttkit.controller.simulation.walkthrough import Walkthrough
    from mqttkit.controller.simulation.walkthrough import simulate as run

    story = Walkthrough(locals=count, subnet=subnet, seed=seed, timeout=timeout)
    settings = connection.settings
    return 0 if run(settings.controller, settings.mqtt, story, click.echo) else 1


@click.command("watch")
@controller_options
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line, each time a controller is heard.")
@click.option("--once", is_flag=True, help="Print what is known after --duration (2 s), and end.")
@click.option("--duration", type=click.FloatRange(0, min_open=True), help="End after this many seconds.")
@connection_options
def watch_command(*, connection: Connection, as_json: bool, once: bool, duration: float | None) -> None:
    """Show each controller: status, last heartbeat, transport, reports, policy versions.

    A live table on a terminal, a line for each change elsewhere.
    """
    from mqttkit.cli.controller.watch import watch_controllers

    watch_controllers(
        connection.settings, as_json=as_json, once=once, duration=2.0 if once and not duration else duration
    )
