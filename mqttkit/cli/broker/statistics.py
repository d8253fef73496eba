"""`mqttkit broker stats`."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import click

from mqttkit.cli.broker.options import name_option
from mqttkit.cli.broker.rows import show_rows
from mqttkit.cli.options.help import GroupedCommand
from mqttkit.cli.options.numbers import COUNT


@click.command(cls=GroupedCommand)
@name_option
@click.option("--follow", is_flag=True, help="Print each update until interrupted.")
@click.option("--count", type=COUNT, help="End after N updates; implies --follow.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per update.")
def stats(name: str, follow: bool, count: int | None, as_json: bool) -> None:
    """Show the broker's own statistics, read live from its $SYS topics.

    \b
    mqttkit broker stats --follow
    """
    from mqttkit.broker import Feature, existing_broker, require
    from mqttkit.broker.profile import read_profile
    from mqttkit.broker.statistics import StatisticsWatcher
    from mqttkit.errors import BrokerUnreachable

    broker = existing_broker(name)
    require(broker, Feature.STATISTICS, "stats")
    profile = read_profile(broker.paths)
    if profile is None or broker.running() is None:
        raise BrokerUnreachable(
            f"broker {name!r}", "tcp", "it is not running", hint=f"Start it with: mqttkit broker up --name {name}"
        )
    left = count or (None if follow else 1)
    with StatisticsWatcher(profile) as watcher:
        for number, now in enumerate(watcher.updates(), 1):
            show_statistics(dataclasses.asdict(now), as_json=as_json, line=follow or count is not None)
            if number == left:
                return


def show_statistics(now: dict[str, Any], *, as_json: bool, line: bool) -> None:
    """Print one update: as JSON, as a line, or as rows."""
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
