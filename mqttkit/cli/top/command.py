"""`mqttkit top`."""

from __future__ import annotations

import sys

import click

from mqttkit.cli.options.connection import ConnectionOptions, terse_connection_options
from mqttkit.cli.options.help import GroupedCommand
from mqttkit.cli.options.numbers import SOME_SECONDS, Number
from mqttkit.cli.options.topic import TOPIC
from mqttkit.cli.signals import interrupts_raise
from mqttkit.errors import UsageError
from mqttkit.topics import check_topic_filter

MEBIBYTE = 1024 * 1024


@click.command(cls=GroupedCommand)
@click.argument("filters", metavar="[FILTER]...", nargs=-1, type=TOPIC)
@click.option("--sort", "order", type=click.Choice(["name", "rate", "size", "age"]), default="name", help="[name]")
@click.option("--once", is_flag=True, help="Print one table after --seconds, then end. The default without a terminal.")
@click.option("--seconds", type=SOME_SECONDS, default=5.0, help="How long --once and --json listen.  [5]")
@click.option("--json", "as_json", is_flag=True, help="As --once, with one JSON object for each topic.")
@click.option(
    "--max-memory",
    type=Number("MIB", low=1, high=65_536),
    default=64,
    help="Limit for topics and values, MiB. The oldest are dropped, counted and shown.  [64]",
)
@terse_connection_options
def top(
    connection: ConnectionOptions,
    filters: tuple[str, ...],
    *,
    order: str,
    once: bool,
    seconds: float,
    as_json: bool,
    max_memory: float,
) -> None:
    """Show the topics of a broker live: rates, ages, sizes, values.

    FILTER is a topic filter; without one, everything is shown. Keys are listed with `?`.

    \b
    mqttkit top
    mqttkit top 'site/#' --sort rate
    mqttkit top --once --seconds 10 'site/#'
    """
    from mqttkit.live.feed import Feed
    from mqttkit.live.rows import Order
    from mqttkit.live.tree import TopicTree

    given = (*filters, *filter(None, [connection.url_topic]))
    chosen = [check_topic_filter(each) for each in given] or ["#"]
    if any(each.startswith("$share/") for each in chosen):
        raise UsageError("a shared subscription would take messages away from its group", hint="Use the filter alone")
    tree = TopicTree(max_bytes=int(max_memory * MEBIBYTE))
    feed = Feed(connection.settings.mqtt, chosen, tree, qos=connection.qos or 0)
    if once or as_json or not all(stream.isatty() for stream in (sys.stdin, sys.stdout, sys.stderr)):
        from mqttkit.cli.top.listing import show_once

        with interrupts_raise(), feed:
            show_once(feed, seconds, Order(order), as_json=as_json)
        return
    from mqttkit.cli.top.start import run

    run(feed, Order(order))
