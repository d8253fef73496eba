"""`mqttkit node`: simulated sensors and a gateway, as real clients."""

from __future__ import annotations

import json
import logging
import os
import queue
import sys
import time
from typing import TYPE_CHECKING, Any

import click

from mqttkit.cli.lazy import Entry, LazyGroup
from mqttkit.cli.options import Connection, connection_options, terse_connection_options
from mqttkit.cli.signals import on_interrupt

if TYPE_CHECKING:
    from mqttkit.nodes import Scenario

log = logging.getLogger(__name__)

COMMANDS = {
    "sensor": Entry(__name__, "sensor", "Run simulated sensors of one kind."),
    "gateway": Entry(__name__, "gateway", "Receive readings and aggregate them by sensor."),
    "run": Entry(__name__, "run", "Run a scenario file: fleets, waveforms, faults."),
}
NOT_ACKNOWLEDGED = 6
COLUMNS = ("sensor_id", "count", "missing", "duplicates", "minimum", "mean", "maximum", "last", "unit")


@click.group(cls=LazyGroup, entries=COMMANDS)
def node() -> None:
    """Run simulated sensor and gateway nodes against a real broker."""


@click.command()
@click.option("--count", type=click.IntRange(1), default=1, help="Number of sensors.  [1]")
@click.option("--rate", type=click.FloatRange(0, min_open=True), default=1.0, help="Readings a second of each.  [1]")
@click.option("--model", default="temperature", help="temperature, humidity, pressure, vibration, power, level, …")
@click.option("--name", default="sensor", help="First part of each identifier: name-001.  [sensor]")
@click.option("--topic", default="sensor/{sensor_id}/{model}", help="Topic template.  [sensor/{sensor_id}/{model}]")
@click.option("--seed", type=int, default=0, help="The same seed, the same readings.  [0]")
@click.option("--duration", type=click.FloatRange(0, min_open=True), help="End after this many seconds.")
@click.option("--readings", type=click.IntRange(1), help="End after this many readings in all.")
@terse_connection_options
def sensor(
    *, connection: Connection, topic: str, seed: int, duration: float | None, readings: int | None, **fleet: Any
) -> int:
    """Publish the readings of simulated sensors, each a client of its own.

    QoS 1 where -q does not say otherwise. Prints the totals; exit code 6 where a reading was not acknowledged.
    """
    from mqttkit.nodes import Fleet, Scenario

    qos = 1 if connection.qos is None else connection.qos
    try:
        scenario = Scenario(seed=seed, duration=duration, topic=topic, fleets=(Fleet(qos=qos, **fleet),))
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    return play(scenario, connection, readings, paced=True)


@click.command()
@click.argument("path", metavar="FILE")
@click.option("--seed", type=int, help="Another seed than the file's.")
@click.option("--speed", type=click.Choice(["1", "max"]), default="1", help="Real time, or as fast as it goes.")
@click.option("--dry-run", is_flag=True, help="Print the readings as JSON lines, and connect to nothing.")
@click.option("--readings", type=click.IntRange(1), help="End after this many readings in all.")
@terse_connection_options
def run(*, connection: Connection, path: str, seed: int | None, speed: str, dry_run: bool, readings: int | None) -> int:
    """Run the scenario in FILE (YAML): fleets, rates, waveforms, faults. The same seed gives the same readings."""
    from dataclasses import replace

    from mqttkit.nodes.scenario_file import load_scenario

    scenario = load_scenario(path, os.environ)
    if seed is not None:
        scenario = replace(scenario, seed=seed)
    if not dry_run:
        return play(scenario, connection, readings, paced=speed != "max")
    print_plan(scenario, readings)
    return 0


@click.command()
@click.option("--filter", "topic_filter", default="sensor/#", help="Topic filter.  [sensor/#]")
@click.option("--count", type=click.IntRange(1), help="End after this many readings.")
@click.option("--duration", type=click.FloatRange(0, min_open=True), help="End after this many seconds.")
@click.option("--interval", type=click.FloatRange(0, min_open=True), default=5.0, help="Seconds between totals.  [5]")
@click.option("--json", "as_json", is_flag=True, help="Print the aggregates as JSON lines.")
@connection_options
def gateway(
    *,
    connection: Connection,
    topic_filter: str,
    count: int | None,
    duration: float | None,
    interval: float,
    as_json: bool,
) -> int:
    """Receive readings; print an aggregate of each sensor at the end.

    Exit code 27 where --duration was over before --count readings had come.
    """
    from mqttkit.nodes import GatewayNode

    settings = connection.settings.mqtt
    stop: queue.SimpleQueue[None] = queue.SimpleQueue()
    name = settings.client.client_id or f"gateway-{os.urandom(3).hex()}"
    with GatewayNode(name, settings, topic_filter=topic_filter) as running, on_interrupt(lambda: stop.put(None)):
        enough = _receive(running, stop, count, duration, interval)
        rows, invalid = running.rows(), running.invalid
    show(rows, as_json=as_json)
    if invalid:
        log.warning("%d messages were no readings", invalid)
    return 0 if enough else 27


def play(scenario: Scenario, connection: Connection, readings: int | None, *, paced: bool) -> int:
    """Run a scenario and print its totals as one JSON line."""
    from mqttkit.nodes import Runner

    runner = Runner(scenario, connection.settings.mqtt, paced=paced)
    with on_interrupt(runner.stop):
        totals = runner.run(limit=readings)
    click.echo(json.dumps(totals.to_json()))
    return 0 if totals.good else NOT_ACKNOWLEDGED


def print_plan(scenario: Scenario, readings: int | None) -> None:
    """Print the readings with their moment, as JSON lines."""
    from mqttkit.nodes import plan

    taken = 0
    for reading in plan(scenario):
        taken += not reading.copy
        if readings is not None and taken > readings:
            return
        line = {"moment": round(reading.moment, 6), "topic": reading.topic, "sent": reading.sent}
        sys.stdout.write(json.dumps({**line, "payload": reading.payload(0.0)}, ensure_ascii=False) + "\n")


def show(rows: list[dict[str, Any]], *, as_json: bool) -> None:
    """Print aggregates."""
    from mqttkit.cli.render import print_table

    if as_json:
        for row in rows:
            sys.stdout.write(json.dumps(row, ensure_ascii=False) + "\n")
    else:
        print_table(COLUMNS, [[_cell(row[name]) for name in COLUMNS] for row in rows])


def _cell(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def _receive(
    running: Any, stop: queue.SimpleQueue[None], count: int | None, duration: float | None, interval: float
) -> bool:
    """Wait until enough readings came, the time is over, or a signal came; False where time was short."""
    end = None if duration is None else time.monotonic() + duration
    spoken = time.monotonic()
    while count is None or not running.wait_for(count, 0.0):
        now = time.monotonic()
        if end is not None and now >= end:
            return count is None
        if now - spoken >= interval:
            spoken = now
            log.info("%d readings of %d sensors", running.readings, len(running.aggregates))
        wait = min(0.25, interval, end - now if end is not None else 0.25)
        if count is not None:
            running.wait_for(count, wait)
            wait = 0.001
        try:
            stop.get(timeout=wait)
        except queue.Empty:
            continue
        return True
    return True
