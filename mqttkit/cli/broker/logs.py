"""`mqttkit broker logs`."""

from __future__ import annotations

import json
import re

import click

from mqttkit.cli.broker.options import name_option
from mqttkit.cli.options.numbers import Number

LOG_LINE = re.compile(r"(?P<timestamp>\d{4}-\d\d-\d\d[T ][\d:,.]*\d):? (?P<message>.*)")


@click.command()
@name_option
@click.option("--tail", type=Number("N", low=0, whole=True), help="Print the last N lines only.")
@click.option("--follow", is_flag=True, help="Print new lines until interrupted.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON lines: timestamp, message.")
def logs(name: str, tail: int | None, follow: bool, as_json: bool) -> None:
    """Show the broker's log."""
    from mqttkit.broker import existing_broker

    for line in existing_broker(name).log_lines(tail=tail, follow=follow):
        click.echo(json.dumps(parse_log_line(line)) if as_json else line)


def parse_log_line(line: str) -> dict[str, str | None]:
    """Split a log line into timestamp, None if it has none, and message."""
    found = LOG_LINE.fullmatch(line)
    return dict(found.groupdict()) if found else {"timestamp": None, "message": line}
