"""`mqttkit broker stats | logs`: what the broker tells of itself."""

from __future__ import annotations

import dataclasses
import json
import re
from typing import Any

import click

from mqttkit.cli.broker.life import name_option, show_rows

LOG_LINE = re.compile(r"(?P<timestamp>\d{4}-\d\d-\d\d[T ][\d:,.]*\d):? (?P<message>.*)")


@click.command()
@name_option
@click.option("--follow", is_flag=True, help="Go on with each update until interrupted.")
@click.option("--count", type=click.IntRange(1), help="End after so many updates; implies --follow.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object an update.")
def stats(name: str, follow: bool, count: int | None, as_json: bool) -> None:
    """Show the broker's own statistics, read live from its $SYS topics."""
    from mqttkit.broker import Feature, existing_broker, require
    from mqttkit.broker.profile import read_profile
    from mqttkit.broker.statistics import Watcher
    from mqttkit.errors import LifecycleError

    broker = existing_broker(name)
    require(broker, Feature.STATISTICS, "stats")
    profile = read_profile(broker.paths)
    if profile is None or broker.running() is None:
        raise LifecycleError(f"broker {name!r} does not run", hint=f"Start it with: mqttkit broker up --name {name}")
    left = count or (None if follow else 1)
    with Watcher(profile) as watcher:
        for number, now in enumerate(watcher.updates(), 1):
            show_statistics(dataclasses.asdict(now), as_json=as_json, line=follow or count is not None)
            if number == left:
                return


@click.command()
@name_option
@click.option("--tail", type=click.IntRange(0), help="Only the last so many lines.")
@click.option("--follow", is_flag=True, help="Go on as lines come, until interrupted.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def logs(name: str, tail: int | None, follow: bool, as_json: bool) -> None:
    """Show the broker's log."""
    from mqttkit.broker import existing_broker

    for line in existing_broker(name).log_lines(tail=tail, follow=follow):
        click.echo(json.dumps(parse_log_line(line)) if as_json else line)


def show_statistics(now: dict[str, Any], *, as_json: bool, line: bool) -> None:
    """Print one moment: a JSON object, a line, or rows."""
    if as_json:
        click.echo(json.dumps(now))
    elif line:
        click.echo(
            f"{now['uptime']:>8} s  clients {now['clients_connected']}  publishes in "
            f"{now['received_per_second']:.1f}/s out {now['sent_per_second']:.1f}/s  packets in "
            f"{now['packets_received_per_second'] or 0:.1f}/s out {now['packets_sent_per_second'] or 0:.1f}/s  "
            f"dropped {now['publish_dropped']}  retained {now['retained']}"
        )
    else:
        rows = {name.replace("_", " "): value for name, value in now.items()}
        show_rows({name: str(value) for name, value in rows.items() if value is not None}, width=max(map(len, rows)))


def parse_log_line(line: str) -> dict[str, str | None]:
    """Split a log line into timestamp (None where it has none) and message."""
    found = LOG_LINE.fullmatch(line)
    return dict(found.groupdict()) if found else {"timestamp": None, "message": line}
