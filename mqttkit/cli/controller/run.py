"""`mqttkit controller local | regional | global`: run one controller until it is stopped."""

from __future__ import annotations

import json
import queue
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from mqttkit.cli.controller import controller_options
from mqttkit.cli.flags import flag_option
from mqttkit.cli.options import Connection, connection_options
from mqttkit.cli.signals import on_interrupt
from mqttkit.errors import UsageError
from mqttkit.settings import ControllerSettings

if TYPE_CHECKING:
    from mqttkit.controller.controller import Controller

FLUSH_SECONDS = 10.0
"""How long reports may wait at the end for somebody to take them over."""

Command = TypeVar("Command", bound=Callable[..., Any])


def run_options(command: Command) -> Command:
    """Add the options of a controller that runs."""
    options = [
        flag_option("--controller-id", "controller.id", help="Identifier; -i does as well."),
        flag_option("--transport", "controller.transports", multiple=True, help="mqtt, http or memory, best first."),
        flag_option("--http-listen", "controller.http_listen", help="host:port to serve HTTP on for others."),
        flag_option("--http-url", "controller.http_url", help="Where another controller serves HTTP."),
        flag_option("--state-file", "controller.state_file", type=click.Path(), help="SQLite file.  [in user's state]"),
        flag_option("--heartbeat", "controller.heartbeat_interval", type=float, help="Seconds.  [10]"),
        click.option("--duration", type=click.FloatRange(0, min_open=True), help="End after this many seconds."),
    ]
    for option in reversed(options):
        command = option(command)
    return controller_options(command)


@click.command()
@run_options
@click.option("--subnet", default="192.168.1.0/24", help="Subnet to scan (simulated).  [192.168.1.0/24]")
@click.option("--interval", type=click.FloatRange(0.01), default=60.0, help="Seconds between discovery cycles.  [60]")
@click.option("--cycles", type=click.IntRange(1), help="End after so many discovery cycles.")
@click.option("--seed", type=int, default=0, help="Seed of the first cycle; it counts up.  [0]")
@connection_options
def local(
    *, connection: Connection, duration: float | None, subnet: str, interval: float, cycles: int | None, seed: int
) -> int:
    """Scan a subnet (simulated) again and again, report it, follow policies.

    Each report and each policy is one JSON line. Exit code 6 where reports were left that nobody took over.
    """
    from mqttkit.controller import LocalController
    from mqttkit.controller.simulation.subnet_scan import discover

    discover(subnet, seed=seed)
    lines: queue.SimpleQueue[Mapping[str, Any] | None] = queue.SimpleQueue()
    end = None if duration is None else time.monotonic() + duration
    with LocalController(_settings(connection), connection.settings.mqtt) as running, on_interrupt(_stop(lines)):
        _demand(running, connection)
        running.subscribe_to_policy_updates(lambda policy: lines.put({"policy": policy.scope, **policy.to_payload()}))
        done = 0
        while cycles is None or done < cycles:
            report = {"cycle": done + 1, **discover(subnet, seed=seed + done)}
            running.publish_discovery_report(report)
            done += 1
            lines.put({"report": done, "subnet": subnet, **report["scans"], "devices": len(report["devices"])})
            wait = interval if done != cycles else 0.0
            if not _print(lines, time.monotonic() + wait, end):
                break
        if running.flush(FLUSH_SECONDS):
            return 0
        running.disconnect_mqtt(flush=0)
        return 6


@click.command()
@run_options
@click.option("--policy", "policy_file", type=click.Path(), help="JSON file of rules to publish for the region.")
@connection_options
def regional(*, connection: Connection, duration: float | None, policy_file: str | None) -> None:
    """Receive the region's discovery reports; one JSON line each."""
    from mqttkit.controller import RegionalController

    rules = _rules(policy_file)
    lines: queue.SimpleQueue[Mapping[str, Any] | None] = queue.SimpleQueue()
    with RegionalController(_settings(connection), connection.settings.mqtt) as running, on_interrupt(_stop(lines)):
        _demand(running, connection)
        running.subscribe_to_policy_updates()
        running.subscribe_to_discovery_reports(
            lambda report: lines.put({**report.payload, "from": report.controller_id})
        )
        if rules is not None:
            running.publish_policy_update(rules)
        _print(lines, None, _end(duration))


@click.command("global")
@run_options
@click.option("--policy", "policy_file", type=click.Path(), help="JSON file of rules to publish for everybody.")
@connection_options
def global_(*, connection: Connection, duration: float | None, policy_file: str | None) -> None:
    """Publish policies for everybody, hear events of the system; one JSON line each."""
    from mqttkit.controller import GlobalController

    rules = _rules(policy_file)
    lines: queue.SimpleQueue[Mapping[str, Any] | None] = queue.SimpleQueue()
    with GlobalController(_settings(connection), connection.settings.mqtt) as running, on_interrupt(_stop(lines)):
        _demand(running, connection)
        running.subscribe_to_events(lambda event: lines.put({**event.payload, "from": event.sender_id}))
        if rules is not None:
            policy, _ = running.publish_policy_update(rules)
            lines.put({"policy": policy.scope, **policy.to_payload()})
        _print(lines, None, _end(duration))


def _settings(connection: Connection) -> ControllerSettings:
    """Return the controller's settings; -i serves as its identifier too."""
    settings = connection.settings
    return replace(settings.controller, id=settings.controller.id or settings.mqtt.client.client_id)


def _demand(running: Controller, connection: Connection) -> None:
    """Raise why there is no broker, where --no-retry asks for that."""
    client = running.mqtt.client if running.mqtt is not None else None
    if client is not None and not connection.retry and not client.connected and client.failure is not None:
        raise client.failure


def _rules(path: str | None) -> dict[str, Any] | None:
    """Return the JSON object in a file; raise UsageError."""
    if path is None:
        return None
    try:
        rules = json.loads(Path(path).read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{path}: no policy: {error}") from error
    if not isinstance(rules, dict):
        raise UsageError(f"{path}: no policy: the rules must be a JSON object")
    return rules


def _stop(lines: queue.SimpleQueue[Mapping[str, Any] | None]) -> Callable[[], None]:
    return lambda: lines.put(None)


def _end(duration: float | None) -> float | None:
    return None if duration is None else time.monotonic() + duration


def _print(lines: queue.SimpleQueue[Mapping[str, Any] | None], until: float | None, end: float | None) -> bool:
    """Print lines until the moment `until`; False where the command is to end: a signal, or `end` is past."""
    while True:
        now = time.monotonic()
        if end is not None and now >= end:
            return False
        moments = [moment for moment in (until, end) if moment is not None]
        try:
            line = lines.get(timeout=max(0.0, min(moments) - now) if moments else 3600.0)
        except queue.Empty:
            if until is not None and time.monotonic() >= until:
                return True
            continue
        if line is None:
            return False
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()
