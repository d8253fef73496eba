"""`mqttkit node`."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from typing import TYPE_CHECKING, Any

import click

from mqttkit.cli.lazy import Entry, LazyGroup
from mqttkit.cli.options.connection import ConnectionOptions, connection_options, terse_connection_options
from mqttkit.cli.options.help import GroupedCommand
from mqttkit.cli.options.numbers import COUNT, SEED, SOME_SECONDS, Number
from mqttkit.cli.signals import on_interrupt
from mqttkit.errors import PublishFailed, TimedOut

if TYPE_CHECKING:
    from mqttkit.nodes import Scenario

COMMANDS = {
    "sensor": Entry(__name__, "sensor", "Run simulated sensors of one kind."),
    "gateway": Entry(__name__, "gateway", "Receive readings and summarize each sensor."),
    "run": Entry(__name__, "run", "Run a scenario file: sensors, waveforms, faults."),
}
readings_option = click.option("--readings", type=COUNT, help="End after N readings in all.")
COLUMNS = ("sensor_id", "count", "missing", "duplicates", "minimum", "mean", "maximum", "last", "unit")
OPTIONAL = ("mean", "duplicates", "unit", "last")
"""Columns that a narrow terminal leaves out, the first one first."""


@click.group(cls=LazyGroup, entries=COMMANDS)
def node() -> None:
    """Run simulated sensors and gateways as clients of a real broker."""


@click.command(cls=GroupedCommand, default_qos="1")
@click.option("--count", type=COUNT, default=1, help="Number of sensors.  [1]")
@click.option("--rate", type=Number("N", low=0, above=True), default=1.0, help="Readings per second and sensor.  [1]")
@click.option(
    "--model",
    metavar="MODEL",
    default="temperature",
    help="temperature, humidity, pressure, vibration, power, level, …",
)
@click.option("--name", metavar="NAME", default="sensor", help="First part of each identifier: name-001.  [sensor]")
@click.option(
    "--topic",
    metavar="TEMPLATE",
    help="Topic template.  [sensor/{sensor_id}/{model}; as another user than the operator: sensor/USER/{sensor_id}/…]",
)
@click.option("--seed", type=SEED, default=0, help="The same seed gives the same readings.  [0]")
@click.option("--duration", type=SOME_SECONDS, help="End after this time.")
@readings_option
@terse_connection_options
def sensor(
    *,
    connection: ConnectionOptions,
    topic: str | None,
    seed: int,
    duration: float | None,
    readings: int | None,
    **fleet: Any,
) -> None:
    """Publish the readings of simulated sensors; each sensor is a separate client.

    Uses QoS 1 without -q. Prints the totals. Exit code 6: some readings were not acknowledged.

    \b
    mqttkit node sensor --count 10 --rate 2 --duration 60
    """
    from mqttkit.nodes import Scenario, SensorFleet

    topic = topic or default_topic(connection.settings.mqtt.broker.username)
    qos = 1 if connection.qos is None else connection.qos
    try:
        scenario = Scenario(seed=seed, duration=duration, topic=topic, fleets=(SensorFleet(qos=qos, **fleet),))
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    play(scenario, connection, readings, paced=True)


@click.command(cls=GroupedCommand, default_qos="")
@click.argument("path", metavar="FILE")
@click.option("--seed", type=SEED, help="Replaces the seed of the file.")
@click.option(
    "--speed", type=click.Choice(["1", "max"]), default="1", help="1: real time; max: as fast as possible.  [1]"
)
@click.option("--dry-run", is_flag=True, help="Print the readings as JSON lines; connect to no broker.")
@readings_option
@terse_connection_options
def run(
    *, connection: ConnectionOptions, path: str, seed: int | None, speed: str, dry_run: bool, readings: int | None
) -> None:
    """Run the scenario in FILE (YAML): groups of sensors, rates, waveforms, faults.

    The same seed gives the same readings. Exit code 6: some readings were not acknowledged.

    \b
    mqttkit node run examples/scenario.yaml
    """
    from dataclasses import replace

    from mqttkit.nodes.scenario_file import load_scenario

    scenario = load_scenario(path, os.environ)
    if seed is not None:
        scenario = replace(scenario, seed=seed)
    if dry_run:
        print_plan(scenario, readings)
    else:
        play(scenario, connection, readings, paced=speed != "max")


@click.command(cls=GroupedCommand, default_qos="")
@click.option("--filter", "topic_filter", metavar="FILTER", default="sensor/#", help="Topic filter.  [sensor/#]")
@click.option("--count", type=COUNT, help="End after N readings.")
@click.option("--duration", type=SOME_SECONDS, help="End after this time.")
@click.option("--interval", type=SOME_SECONDS, default=5.0, help="Time between totals on stderr.  [5]")
@click.option("--json", "as_json", is_flag=True, help="Print the summary of each sensor as a JSON line.")
@connection_options
def gateway(
    *,
    connection: ConnectionOptions,
    topic_filter: str,
    count: int | None,
    duration: float | None,
    interval: float,
    as_json: bool,
) -> None:
    """Receive readings; at the end, print a summary of each sensor.

    Exit code 27: --duration passed before --count readings were received.

    \b
    mqttkit node gateway --filter 'sensor/#' --duration 60
    """
    from mqttkit.nodes import GatewayNode
    from mqttkit.nodes.collecting import collect
    from mqttkit.stop import Stop

    settings = connection.settings.mqtt
    stop = Stop()
    name = settings.client.client_id or f"gateway-{os.urandom(3).hex()}"
    with GatewayNode(name, settings, topic_filter=topic_filter) as running, on_interrupt(stop.set):
        complete = collect(running, count=count, duration=duration, interval=interval, stop=stop)
        rows, readings = running.rows(), running.readings
    show(rows, as_json=as_json)
    if not complete:
        raise TimedOut(f"timed out after {duration:g} s: received {readings} of {count} readings")


def default_topic(user: str | None) -> str:
    """Return the topic template for sensors of a user; the role `device` may publish below sensor/USER."""
    from mqttkit.broker.mosquitto.configuration import OPERATOR
    from mqttkit.nodes.plan import TOPIC

    if user in (None, "", OPERATOR) or any(character in str(user) for character in "/+#{}"):
        return TOPIC
    return TOPIC.replace("sensor/", f"sensor/{user}/", 1)


def play(scenario: Scenario, connection: ConnectionOptions, readings: int | None, *, paced: bool) -> None:
    """Run a scenario and print its totals as one JSON line; raise PublishFailed if a reading was not acknowledged."""
    from mqttkit.cli.output.progress import progress
    from mqttkit.nodes import Runner

    runner = Runner(scenario, connection.settings.mqtt, paced=paced)
    began = time.monotonic()

    def share() -> float:
        by_count = runner.totals.taken / readings if readings else 0.0
        return max(by_count, (time.monotonic() - began) / scenario.duration if paced and scenario.duration else 0.0)

    watched = progress(share) if readings or (paced and scenario.duration) else contextlib.nullcontext()
    with on_interrupt(runner.stop), watched:
        totals = runner.run(limit=readings)
    click.echo(json.dumps(totals.to_json()))
    if not totals.good:
        counts = ", ".join(f"{count} {name}" for name, count in totals.outcomes.items())
        raise PublishFailed(f"not every reading was acknowledged: {counts}")


def print_plan(scenario: Scenario, readings: int | None) -> None:
    """Print the readings with their time, as JSON lines."""
    from mqttkit.nodes import plan

    taken = 0
    for reading in plan(scenario):
        taken += not reading.copy
        if readings is not None and taken > readings:
            return
        line = {"moment": round(reading.moment, 6), "topic": reading.topic, "sent": reading.sent}
        sys.stdout.write(json.dumps({**line, "payload": reading.payload(0.0)}, ensure_ascii=False) + "\n")


def show(rows: list[dict[str, Any]], *, as_json: bool) -> None:
    """Print the summary of each sensor."""
    from mqttkit.cli.output.render import print_table

    if as_json:
        for row in rows:
            sys.stdout.write(json.dumps(row, ensure_ascii=False) + "\n")
    else:
        print_table(COLUMNS, [[_cell(row[name]) for name in COLUMNS] for row in rows], optional=OPTIONAL)


def _cell(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)
