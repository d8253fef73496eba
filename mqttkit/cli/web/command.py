"""`mqttkit web`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from mqttkit.addresses import parse_address
from mqttkit.cli.options.connection import ConnectionOptions, terse_connection_options
from mqttkit.cli.options.help import GroupedCommand
from mqttkit.cli.options.numbers import Number
from mqttkit.cli.options.topic import TOPIC
from mqttkit.cli.signals import on_interrupt
from mqttkit.errors import UsageError
from mqttkit.topics import check_topic_filter

if TYPE_CHECKING:
    from mqttkit.web.access import PageAccess

MEBIBYTE = 1024 * 1024


@click.command(cls=GroupedCommand)
@click.argument("filters", metavar="[FILTER]...", nargs=-1, type=TOPIC)
@click.option(
    "--listen",
    metavar="HOST:PORT",
    default="127.0.0.1:0",
    help="Address of the page; port 0 picks a free one. Others than loopback need a password.  [127.0.0.1:0]",
)
@click.option(
    "--page-password-file",
    metavar="FILE",
    type=click.Path(),
    help="Ask for the password in the first line of FILE instead of a token in the address.",
)
@click.option(
    "--host-name", "host_names", metavar="NAME", multiple=True, help="Name under which browsers reach the page."
)
@click.option(
    "--max-viewers", type=Number("N", low=1, high=100, whole=True), default=8, help="Open pages allowed.  [8]"
)
@click.option(
    "--max-memory",
    type=Number("MIB", low=1, high=65_536),
    default=64,
    help="Limit for topics and values, MiB. The oldest are dropped, counted and shown.  [64]",
)
@click.option(
    "--bridge-health", "bridges", metavar="HOST:PORT", multiple=True, help="Show a bridge that runs with --health-port."
)
@terse_connection_options
def web(
    connection: ConnectionOptions,
    filters: tuple[str, ...],
    *,
    listen: str,
    page_password_file: str | None,
    host_names: tuple[str, ...],
    max_viewers: int,
    max_memory: float,
    bridges: tuple[str, ...],
) -> None:
    """Show the topics of a broker live in the browser: tree, rates, payloads, plots, Bluetooth, broker, bridges.

    FILTER is a topic filter; without one, everything is shown. The command prints the address to open.

    \b
    mqttkit web
    mqttkit web 'site/#' --listen 127.0.0.1:8090
    mqttkit web --listen 0.0.0.0:8090 --page-password-file page-password
    """
    from mqttkit.live.garbage import search_rarely
    from mqttkit.stop import Stop
    from mqttkit.web.page import LivePage, PageOptions

    given = (*filters, *filter(None, [connection.url_topic]))
    chosen = [check_topic_filter(each) for each in given] or ["#"]
    if any(each.startswith("$share/") for each in chosen):
        raise UsageError("a shared subscription would take messages away from its group", hint="Use the filter alone")
    options = PageOptions(
        access=_access(listen, page_password_file, host_names),
        max_viewers=max_viewers,
        max_bytes=int(max_memory * MEBIBYTE),
        bridges=[_address("--bridge-health", each, 9464) for each in bridges],
    )
    stop = Stop()
    with on_interrupt(stop.set), LivePage(connection.settings, chosen, options, qos=connection.qos or 0) as page:
        search_rarely()
        click.echo(page.address)
        while not stop.wait(3600):
            pass


def _access(listen: str, password_file: str | None, host_names: tuple[str, ...]) -> PageAccess:
    from mqttkit.config import read_secret
    from mqttkit.web.access import PageAccess

    host, port = _address("--listen", listen, 0)
    password = read_secret(password_file, "", "--page-password-file") if password_file is not None else None
    return PageAccess(host=host, port=port, password=password, host_names=host_names)


def _address(option: str, text: str, default_port: int) -> tuple[str, int]:
    """Return host and port; port 0 is allowed."""
    try:
        return parse_address(text.removesuffix(":0"), default_port)
    except ValueError as error:
        raise UsageError(f"{option}: {error}") from error
