"""`mqttkit controller local | regional | global`: run one controller until it is stopped."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from mqttkit.cli.controller.line_writer import LineWriter
from mqttkit.cli.controller.options import run_options
from mqttkit.cli.controller.requests import read_rules
from mqttkit.cli.options.connection import ConnectionOptions, connection_options
from mqttkit.cli.options.help import GroupedCommand
from mqttkit.cli.options.numbers import COUNT, SEED, Number
from mqttkit.cli.signals import on_interrupt
from mqttkit.errors import PublishFailed
from mqttkit.settings import ControllerSettings

if TYPE_CHECKING:
    from mqttkit.controller import LocalController, Report
    from mqttkit.controller.controller import Controller
    from mqttkit.controller.event_lines import EventLines

FLUSH_SECONDS = 10.0
"""How long a local controller waits at the end for the receipts of its reports."""
policy_option = click.option(
    "--policy", "policy_file", metavar="FILE", type=click.Path(), help="JSON file of rules to publish as a policy."
)


@click.command(cls=GroupedCommand, default_qos="")
@run_options
@click.option(
    "--discover",
    metavar="SOURCE",
    default="simulation",
    help="simulation, neighbours, sweep, or a shell command that prints a JSON object for each device.  [simulation]",
)
@click.option(
    "--subnet", metavar="SUBNET", default="192.168.1.0/24", help="Subnet to sweep or simulate.  [192.168.1.0/24]"
)
@click.option(
    "--rate", type=Number("N", low=1, high=1_000), default=100.0, help="Datagrams of a sweep a second.  [100]"
)
@click.option(
    "--interval",
    type=Number("SECONDS", low=0.01),
    default=60.0,
    help="Time between scans, unless a policy has a scan_interval.  [60]",
)
@click.option("--cycles", type=COUNT, help="End after N scans.")
@click.option("--seed", type=SEED, default=0, help="Seed of the first simulated scan; it counts up.  [0]")
@connection_options
def local(
    *,
    connection: ConnectionOptions,
    duration: float | None,
    discover: str,
    subnet: str,
    rate: float,
    interval: float,
    cycles: int | None,
    seed: int,
) -> None:
    """Scan a network again and again, report its devices and what has changed, and follow policies.

    `neighbours` reads the neighbour table, `sweep` sends a datagram to each address of the subnet. Prints
    each report and policy as a JSON line. Exit code 6: no receipt for some reports; 1: the last scan failed.

    \b
    mqttkit controller local --region zone-A --subnet 192.168.1.0/24
    """
    from mqttkit.controller import LocalController
    from mqttkit.controller.discovery.opening import ScanPlan, open_discovery
    from mqttkit.controller.event_lines import ScanLoop

    source = open_discovery(discover, ScanPlan(subnet, rate, seed))
    with (
        _lines(duration) as (lines, writer),
        contextlib.closing(source),
        LocalController(_settings(connection), connection.settings.mqtt) as running,
    ):
        _require_broker(running, connection)
        running.subscribe_to_policy_updates(lambda policy: lines.put({"policy": policy.scope, **policy.to_payload()}))
        scans = ScanLoop(running, lines, source)
        writer.write_all(scans.run(interval=interval, cycles=cycles))
        source.close()
        error = scans.error if running.flush(FLUSH_SECONDS) else _no_receipts(running)
        running.disconnect_mqtt(flush=0)
    if error is not None:
        raise error


def _no_receipts(running: LocalController) -> PublishFailed:
    """Return the error for the reports that have no receipt at the end."""
    known = "".join(f"; {text}" for text in (running.unknown_subscribers, running.clock_error) if text)
    return PublishFailed(
        f"no receipt for {running.unsent} reports within {FLUSH_SECONDS:g} s; "
        f"a transport had taken {running.taken} of them{known}. They are sent again at the next start",
        hint="Is a regional controller of the same region running? See: mqttkit controller watch",
    )


@click.command(cls=GroupedCommand, default_qos="")
@run_options
@policy_option
@connection_options
def regional(*, connection: ConnectionOptions, duration: float | None, policy_file: str | None) -> None:
    """Receive the region's discovery reports; print each as a JSON line.

    A report is acknowledged when its line is written. A report that may have been printed before a crash has
    "redelivered": true.

    \b
    mqttkit controller regional --region zone-A
    """
    from mqttkit.controller import RegionalController

    rules = read_rules(policy_file) if policy_file is not None else None
    with (
        _lines(duration) as (lines, writer),
        RegionalController(_settings(connection), connection.settings.mqtt) as running,
        contextlib.closing(lines),  # before the controller: what is not written stays unacknowledged
    ):
        _require_broker(running, connection)
        running.subscribe_to_policy_updates()
        running.subscribe_to_discovery_reports(lambda report: lines.put(_line(report)), flush=lines.flush)
        if rules is not None:
            running.publish_policy_update(rules)
        writer.write_all(lines.until())


@click.command("global", cls=GroupedCommand, default_qos="")
@run_options
@policy_option
@connection_options
def global_(*, connection: ConnectionOptions, duration: float | None, policy_file: str | None) -> None:
    """Publish policies for all controllers and receive the system's events; print each as a JSON line.

    \b
    mqttkit controller global
    """
    from mqttkit.controller import GlobalController

    rules = read_rules(policy_file) if policy_file is not None else None
    with (
        _lines(duration) as (lines, writer),
        GlobalController(_settings(connection), connection.settings.mqtt) as running,
    ):
        _require_broker(running, connection)
        running.subscribe_to_events(lambda event: lines.put({**event.payload, "from": event.sender_id}))
        if rules is not None:
            policy, _ = running.publish_policy_update(rules)
            lines.put({"policy": policy.scope, **policy.to_payload()})
        writer.write_all(lines.until())


def _line(report: Report) -> dict[str, Any]:
    """Return the line for a report; one that may have been printed before is marked."""
    marks = {"redelivered": True} if report.redelivered else {}
    return {**report.payload, "from": report.controller_id, "message_id": report.message_id, **marks}


def _settings(connection: ConnectionOptions) -> ControllerSettings:
    """Return the controller's settings, with -i as its identifier if it has no other."""
    settings = connection.settings
    return replace(settings.controller, id=settings.controller.id or settings.mqtt.client.client_id)


def _require_broker(running: Controller, connection: ConnectionOptions) -> None:
    """With --no-retry, raise the reason why there is no connection."""
    client = running.mqtt.client if running.mqtt is not None else None
    if client is not None and not connection.retry and not client.connected and client.failure is not None:
        raise client.failure


@contextlib.contextmanager
def _lines(duration: float | None) -> Iterator[tuple[EventLines, LineWriter]]:
    """Return the queue of events and the writer to stdout; SIGINT and SIGTERM stop both."""
    from mqttkit.controller.event_lines import EventLines

    lines, writer = EventLines(duration), LineWriter()

    def stop() -> None:
        lines.stop()
        writer.stop()

    with contextlib.closing(writer), on_interrupt(stop):
        yield lines, writer
