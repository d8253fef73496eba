"""`mqttkit retained prune | restore`."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mqttkit.cli.options.connection import ConnectionOptions, terse_connection_options
from mqttkit.cli.options.help import GroupedCommand
from mqttkit.cli.options.topic import TOPIC
from mqttkit.cli.output.render import print_json
from mqttkit.cli.retained.reading import FILE, chosen_filters
from mqttkit.errors import PublishFailed, UsageError
from mqttkit.topics import check_topic_filter

if TYPE_CHECKING:
    from mqttkit.retained.changing import Change

SHOWN = 10
"""Topics that a plan names."""


@click.command(cls=GroupedCommand, default_qos="")
@click.argument("filters", metavar="FILTER...", nargs=-1, type=TOPIC)
@click.option("-o", "--output", type=FILE, metavar="FILE", help="Snapshot for undo.  [retained-TIME.jsonl.zst]")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@terse_connection_options
def prune(
    connection: ConnectionOptions, filters: tuple[str, ...], output: Path | None, *, yes: bool, as_json: bool
) -> None:
    """Remove retained messages: show the plan, save a snapshot, remove, and read the broker again as a proof.

    To undo it: mqttkit retained restore SNAPSHOT. Exit code 6: the broker still has some of them.

    \b
    mqttkit retained prune 'site/old/#'
    """
    from mqttkit.retained.changing import remove, save_snapshot
    from mqttkit.retained.reading import read_snapshot

    settings, chosen = connection.settings.mqtt, chosen_filters(filters, connection)
    path = output or Path(time.strftime("retained-%Y%m%dT%H%M%SZ.jsonl.zst", time.gmtime()))
    count = save_snapshot(settings, chosen, path, (time.time_ns(), time.monotonic_ns()))
    if not count:
        path.unlink()
        click.echo("no retained messages match", err=True)
        return
    click.echo(f"{count:,} retained messages, saved in {path}:", err=True)
    for number, message in enumerate(read_snapshot(path)):
        if number == SHOWN:
            click.echo(f"  and {count - SHOWN:,} more", err=True)
            break
        click.echo(f"  {message.topic!r}, {len(message.payload)} bytes", err=True)
    if not yes and not _confirmed(f"Remove {count:,} retained messages?"):
        raise UsageError("nothing was removed", hint="Without a terminal, confirm with --yes")
    change = remove(settings, path, chosen)
    _show(change, "removed", as_json=as_json)
    if not as_json:
        click.echo(f"To undo: mqttkit retained restore {path}", err=True)
    _fail(change, "not removed")


@click.command(cls=GroupedCommand, default_qos="")
@click.argument("source", metavar="SNAPSHOT", type=FILE)
@click.option("--filter", "filters", metavar="FILTER", multiple=True, help="Restore only topics that match FILTER.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@terse_connection_options
def restore(connection: ConnectionOptions, source: Path, filters: tuple[str, ...], *, as_json: bool) -> None:
    """Publish the messages of a snapshot that the broker does not have as they were. Others stay untouched.

    Exit code 6: the broker does not have some of them afterwards.

    \b
    mqttkit retained restore before.jsonl.zst
    """
    from mqttkit.retained import changing

    change = changing.restore(connection.settings.mqtt, source, [check_topic_filter(each) for each in filters])
    _show(change, "restored", as_json=as_json)
    _fail(change, "not restored")


def _show(change: Change, verb: str, *, as_json: bool) -> None:
    if as_json:
        print_json(asdict(change))
    else:
        text = f"{change.done:,} {verb}, {change.unchanged:,} unchanged, {change.refused:,} refused"
        click.echo(text, err=True)


def _fail(change: Change, verb: str) -> None:
    if change.refused:
        topic, reason = next(iter(change.reasons.items()))
        raise PublishFailed(f"{change.refused:,} retained messages {verb}, the first on topic {topic!r}: {reason}")


def _confirmed(question: str) -> bool:
    try:
        return click.confirm(question, err=True)
    except click.Abort:
        return False
