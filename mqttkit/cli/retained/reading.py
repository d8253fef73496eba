"""`mqttkit retained list | snapshot | diff`."""

from __future__ import annotations

import time
from pathlib import Path

import click

from mqttkit.cli.options.connection import ConnectionOptions, terse_connection_options
from mqttkit.cli.options.help import GroupedCommand
from mqttkit.cli.options.topic import TOPIC
from mqttkit.cli.output.render import on_terminal, print_json, print_table
from mqttkit.errors import UsageError
from mqttkit.formats.visible import visible
from mqttkit.topics import check_topic_filter

FILE = click.Path(path_type=Path)


def chosen_filters(filters: tuple[str, ...], connection: ConnectionOptions) -> list[str]:
    """Return the topic filters of a command; raise UsageError if there are none."""
    found = [check_topic_filter(each) for each in (*filters, *filter(None, [connection.url_topic]))]
    if not found:
        raise UsageError("no topic filter", hint="For everything: mqttkit retained list '#'")
    return found


@click.command("list", cls=GroupedCommand, default_qos="")
@click.argument("filters", metavar="FILTER...", nargs=-1, type=TOPIC)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object for each topic.")
@terse_connection_options
def list_retained(connection: ConnectionOptions, filters: tuple[str, ...], *, as_json: bool) -> None:
    """List topic, QoS and payload size of the retained messages. To see payloads: mqttkit sub --retained-only -v.

    \b
    mqttkit retained list 'site/#'
    """
    from mqttkit.retained.reading import read_broker

    rows: list[tuple[str, int, int]] = []
    for message in read_broker(connection.settings.mqtt, chosen_filters(filters, connection)):
        if as_json:
            print_json({"topic": message.topic, "qos": message.qos, "bytes": len(message.payload)})
        else:
            rows.append((message.topic, message.qos, len(message.payload)))
    if not as_json:
        print_table(("topic", "qos", "bytes"), sorted(rows))


@click.command(cls=GroupedCommand, default_qos="")
@click.argument("filters", metavar="FILTER...", nargs=-1, type=TOPIC)
@click.option("-o", "--output", required=True, type=FILE, metavar="FILE", help="File to create: NAME.jsonl.zst.")
@terse_connection_options
def snapshot(connection: ConnectionOptions, filters: tuple[str, ...], output: Path) -> None:
    """Save the retained messages with QoS and properties. `mqttkit replay` and `retained restore` read the file.

    \b
    mqttkit retained snapshot 'site/#' -o before.jsonl.zst
    """
    from mqttkit.retained.changing import save_snapshot

    now = (time.time_ns(), time.monotonic_ns())
    count = save_snapshot(connection.settings.mqtt, chosen_filters(filters, connection), output, now)
    click.echo(f"{count:,} retained messages in {output}", err=True)


@click.command(cls=GroupedCommand, default_qos="")
@click.argument("first", metavar="SNAPSHOT", type=FILE)
@click.argument("second", metavar="[SNAPSHOT]", type=FILE, required=False)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object for each difference.")
@terse_connection_options
def diff(connection: ConnectionOptions, first: Path, second: Path | None, *, as_json: bool) -> int:
    """Compare a snapshot with the broker, or with a second snapshot. Exit code 1: they differ.

    To compare two brokers, take a snapshot of one and compare it with the other.

    \b
    mqttkit retained diff before.jsonl.zst
    """
    from mqttkit.recorder.recording import Recording
    from mqttkit.retained.comparison import differences, digests
    from mqttkit.retained.reading import read_broker, read_snapshot

    before = digests(read_snapshot(first))
    with Recording(first) as recording:
        filters = recording.header.subscriptions
    after = read_broker(connection.settings.mqtt, filters) if second is None else read_snapshot(second)
    count = 0
    for each in differences(before, after):
        count += 1
        if as_json:
            print_json({"topic": each.topic, "difference": each.kind})
        else:
            click.echo(f"{each.kind:8} {visible(each.topic) if on_terminal() else each.topic}")
    return 1 if count else 0
