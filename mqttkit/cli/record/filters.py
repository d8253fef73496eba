"""`mqttkit record FILTER... -o FILE`."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from mqttkit.cli.options.connection import ConnectionOptions, terse_connection_options
from mqttkit.cli.options.help import GroupedCommand
from mqttkit.cli.options.numbers import COUNT, SOME_SECONDS
from mqttkit.cli.options.topic import TOPIC
from mqttkit.cli.output.render import print_json
from mqttkit.cli.signals import on_interrupt
from mqttkit.errors import UsageError
from mqttkit.topics import check_topic_filter

UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30}
SECONDS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}


def parse_size(_context: click.Context, _parameter: click.Parameter, text: str | None) -> int | None:
    """Return the bytes of `100M` or `64Mi`."""
    return None if text is None else int(_with_unit(text.removesuffix("B"), UNITS, "a size such as 100M or 64Mi"))


def parse_duration(_context: click.Context, _parameter: click.Parameter, text: str | None) -> float | None:
    """Return the seconds of `90`, `10m` or `1h`."""
    return None if text is None else _with_unit(text, SECONDS, "a duration such as 90, 10m or 1h")


def _with_unit(text: str, units: dict[str, Any], expected: str) -> float:
    number = text.rstrip("skMGKimhd")
    unit = text[len(number) :]
    try:
        value = float(number) * float(units[unit])
    except (ValueError, KeyError):
        raise click.BadParameter(f"{text!r} is not {expected}") from None
    if not 0 < value < float("inf"):
        raise click.BadParameter(f"{text!r} is not {expected}")
    return value


FILE = click.Path(path_type=Path)


@click.command("filters", cls=GroupedCommand, default_qos="2")
@click.argument("filters", metavar="FILTER...", nargs=-1, type=TOPIC)
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="File to create: NAME.jsonl.zst.",
)
@click.option("-C", "count", type=COUNT, help="End after this number of messages.")
@click.option("-W", "seconds", type=SOME_SECONDS, help="End after this number of seconds.")
@click.option("--max-size", callback=parse_size, metavar="SIZE", help="Start a new file at this size, e.g. 100M.")
@click.option("--max-age", callback=parse_duration, metavar="DURATION", help="Start a new file after e.g. 1h.")
@click.option("--keep", type=COUNT, help="Keep this number of files, remove the oldest.")
@click.option("--json", "as_json", is_flag=True, help="Print the totals as JSON.")
@terse_connection_options
def record_filters(connection: ConnectionOptions, filters: tuple[str, ...], *, as_json: bool, **given: Any) -> int:
    """Record messages into FILE until interrupted, or until -C or -W ends it.

    Exit code 6: the recorder dropped messages, or was without a connection; the file has a gap for each.

    \b
    mqttkit record 'site/#' -o site.jsonl.zst -W 60
    """
    from mqttkit.recorder.recorder import Recorder, RecorderOptions, RecorderTotals
    from mqttkit.stop import Stop

    chosen = [check_topic_filter(each) for each in (*filters, *filter(None, [connection.url_topic]))]
    if not chosen:
        raise UsageError("no topic filter", hint="To record everything: mqttkit record '#' -o FILE")
    options = RecorderOptions(
        path=given["output"],
        qos=2 if connection.qos is None else connection.qos,
        max_bytes=given["max_size"],
        max_seconds=given["max_age"],
        keep=given["keep"],
        count=given["count"],
        seconds=given["seconds"],
    )
    stop = Stop()
    with (
        on_interrupt(stop.set),
        Recorder(connection.settings.mqtt, chosen, options, retry=connection.retry) as recorder,
    ):
        totals: RecorderTotals = recorder.run(stop)
    if as_json:
        print_json(asdict(totals))
    else:
        click.echo(
            f"{totals.messages} messages and {totals.retained} retained ones in {totals.file_bytes:,} bytes; "
            f"{totals.dropped} dropped, {totals.disconnects} lost connections",
            file=sys.stderr,
        )
    return 6 if totals.dropped or totals.disconnects else 0
