"""`mqttkit scan`: show what is in the air, with no broker involved."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

import click

from mqttkit.cli.flags import given_flags
from mqttkit.cli.options import set_up_logging
from mqttkit.cli.scan.source_options import source_options
from mqttkit.cli.signals import on_interrupt

if TYPE_CHECKING:
    from mqttkit.scanner import Advertisement, Source
    from mqttkit.settings import ScannerSettings


@click.command()
@source_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON lines, which replay:FILE reads back.")
@click.option("--duration", type=click.FloatRange(min=0, min_open=True), help="End after this many seconds.")
@click.option("--count", type=click.IntRange(min=1), help="End after this many advertisements.")
@click.option("--config", type=click.Path(), help="Settings file.  [mqttkit.yaml where there is one]")
@click.option("--quiet", is_flag=True, help="Say nothing on stderr but the error that ends the command.")
@click.option("-d", "--debug", is_flag=True, help="Say everything on stderr.")
def scan(
    *, as_json: bool, duration: float | None, count: int | None, config: str | None, quiet: bool, debug: bool
) -> None:
    """Show the Bluetooth devices around, with no broker involved.

    A live table on a terminal, a line an advertisement elsewhere. Ctrl-C ends it.

    \b
    mqttkit scan --source simulated --duration 10
    mqttkit scan --json --count 1000 > room.jsonl
    mqttkit scan --source replay:room.jsonl --speed max
    """
    from mqttkit.scanner import open_source

    set_up_logging(quiet=quiet, debug=debug)
    with open_source(_settings(config)) as source, _ending(source, duration):
        batches = source.batches() if count is None else _first(source.batches(), count)
        if as_json:
            _print_lines(batches, lambda heard: json.dumps(heard.to_json()))
        elif sys.stdout.isatty():
            from mqttkit.cli.scan.live_table import show_table

            show_table(batches)
        else:
            _print_lines(batches, describe)
    if source.dropped and not quiet:
        click.echo(f"not shown: {', '.join(f'{cause} {n}' for cause, n in source.dropped.items())}", err=True)


def describe(heard: Advertisement) -> str:
    """Return one line: time, address, RSSI, name, and the companies and services it tells of."""
    from mqttkit.scanner.advertisement import format_timestamp, manufacturer_fields, printable

    rssi = "?" if heard.rssi is None else heard.rssi
    line = f"{format_timestamp(heard.timestamp)} {heard.mac_address} {rssi:>4} dBm"
    if heard.local_name:
        line += f"  {printable(heard.local_name)!r}"
    last, earlier = manufacturer_fields(heard)
    for fields in (*earlier, last):
        line += "".join(f"  {company}={data}" for company, data in fields.items())
    line += "".join(f"  {service}={data.hex()}" for service, data in heard.service_data.items())
    return line + "".join(f"  {service}" for service in heard.service_uuids if service not in heard.service_data)


def _settings(config: str | None) -> ScannerSettings:
    from mqttkit.config import load_settings

    return load_settings(config, environ=os.environ, flags=given_flags(), profile={}).settings.scanner


@contextlib.contextmanager
def _ending(source: Source, duration: float | None) -> Iterator[None]:
    """Close the source after `duration` seconds and at SIGINT and SIGTERM; a second signal ends at once."""
    timer = None if duration is None else threading.Timer(duration, source.close)
    with on_interrupt(source.close):
        if timer is not None:
            timer.start()
        try:
            yield
        finally:
            if timer is not None:
                timer.cancel()


def _first(batches: Iterable[list[Advertisement]], count: int) -> Iterator[list[Advertisement]]:
    """Yield the first `count` advertisements."""
    for batch in batches:
        yield batch[:count]
        count -= len(batch)
        if count <= 0:
            return


def _print_lines(batches: Iterable[list[Advertisement]], line: Callable[[Advertisement], str]) -> None:
    """Print a line an advertisement; flush whenever none waits."""
    for batch in batches:
        sys.stdout.write("".join(f"{line(heard)}\n" for heard in batch))
        sys.stdout.flush()
