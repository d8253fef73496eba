"""`mqttkit broker logs`."""

from __future__ import annotations

import json
import re

import click

from mqttkit.cli.broker.options import name_option
from mqttkit.cli.options.help import GroupedCommand
from mqttkit.cli.options.numbers import Number

DENIED = re.compile(r": Denied (PUBLISH|SUBSCRIBE)|denied", re.I)
LOG_LINE = re.compile(r"(?P<timestamp>\d{4}-\d\d-\d\d[T ][\d:,.]*\d):? (?P<message>.*)")


@click.command(cls=GroupedCommand)
@name_option
@click.option("--tail", type=Number("N", low=0, whole=True), help="Print the last N lines only.")
@click.option("--follow", is_flag=True, help="Print new lines until interrupted.")
@click.option("--denied", is_flag=True, help="Print only publishes and subscriptions that the ACL denied.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON lines: timestamp, message.")
def logs(name: str, tail: int | None, follow: bool, denied: bool, as_json: bool) -> None:
    """Show the broker's log. Denied publishes are logged after `broker restart --log-type debug`.

    \b
    mqttkit broker logs --tail 20
    mqttkit broker logs --follow --denied
    """
    from mqttkit.broker import existing_broker

    broker = existing_broker(name)
    if denied and "debug" not in broker.spec.log_types:
        click.echo(
            f"this broker does not log denials. Change that: mqttkit broker restart --name {name} --log-type debug",
            err=True,
        )
    for line in broker.log_lines(tail=tail, follow=follow):
        if denied and not DENIED.search(line):
            continue
        click.echo(json.dumps(parse_log_line(line)) if as_json else line)


def parse_log_line(line: str) -> dict[str, str | None]:
    """Split a log line into timestamp, None if it has none, and message."""
    found = LOG_LINE.fullmatch(line)
    return dict(found.groupdict()) if found else {"timestamp": None, "message": line}
