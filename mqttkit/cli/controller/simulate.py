"""`mqttkit controller simulate`."""

from __future__ import annotations

import click

from mqttkit.cli.controller.options import controller_options
from mqttkit.cli.options.connection import ConnectionOptions, terse_connection_options
from mqttkit.cli.options.help import GroupedCommand
from mqttkit.cli.options.numbers import SEED, Number


@click.command(cls=GroupedCommand, default_qos="")
@controller_options
@click.option(
    "--locals", "count", type=Number("N", low=1, high=1_000, whole=True), default=1, help="Local controllers.  [1]"
)
@click.option(
    "--subnet", metavar="SUBNET", default="192.168.{number}.0/24", help="Subnet of each; {number} counts from 1."
)
@click.option("--seed", type=SEED, default=0, help="The same seed gives the same devices.  [0]")
@click.option("--timeout", type=Number("SECONDS", low=0.1), default=10.0, help="How long to wait for each step.  [10]")
@terse_connection_options
def simulate(*, connection: ConnectionOptions, count: int, subnet: str, seed: int, timeout: float) -> int:
    """Run a regional controller and local controllers against the broker, in numbered steps.

    The steps: check the broker, prepare the keys, connect the regional controller, connect the local controllers,
    scan for devices (simulated ARP, ICMP and SNMP), and match each report received. Exit code 1: a report is
    missing.

    \b
    mqttkit controller simulate
    """
    from mqttkit.controller.simulation.walkthrough import Walkthrough
    from mqttkit.controller.simulation.walkthrough import simulate as run

    steps = Walkthrough(locals=count, subnet=subnet, seed=seed, timeout=timeout)
    settings = connection.settings
    return 0 if run(settings.controller, settings.mqtt, steps, click.echo) else 1
