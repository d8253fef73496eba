"""`mqttkit scan`."""

from __future__ import annotations

import contextlib
import json
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

import click

from mqttkit.cli.logs import set_up_logging
from mqttkit.cli.options.help import GroupedCommand
from mqttkit.cli.options.loading import config_option, load_without_broker
from mqttkit.cli.options.numbers import COUNT, SOME_SECONDS
from mqttkit.cli.scan.source_options import source_options
from mqttkit.cli.signals import on_interrupt

if TYPE_CHECKING:
    from mqttkit.decode import Reading
    from mqttkit.scanner import Advertisement, Source


@click.command(cls=GroupedCommand)
@source_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON lines, which `--source replay:FILE` can read.")
@click.option("--decode", "decoded", is_flag=True, help="Show the values of sensors.")
@click.option("--duration", type=SOME_SECONDS, help="End after this time.")
@click.option("--count", type=COUNT, help="End after N advertisements.")
@config_option
@click.option("--quiet", is_flag=True, help="Print nothing on stderr except a final error.")
@click.option("-d", "--debug", is_flag=True, help="Log everything on stderr.")
def scan(
    *,
    as_json: bool,
    decoded: bool,
    duration: float | None,
    count: int | None,
    config: str | None,
    quiet: bool,
    debug: bool,
) -> None:
    """Show the Bluetooth devices nearby. This command needs no broker.

    A live table on a terminal, otherwise a line per advertisement. Ctrl-C ends it.

    \b
    mqttkit scan --source simulated --duration 10
    mqttkit scan --json --count 1000 > room.jsonl
    mqttkit scan --source replay:room.jsonl --speed max
    """
    from mqttkit.scanner import open_source

    set_up_logging(quiet=quiet, debug=debug)
    with open_source(load_without_broker(config).scanner) as source, _ending(source, duration):
        batches = source.batches() if count is None else _first(source.batches(), count)
        read = _reader() if decoded else _read_nothing
        if as_json:
            _print_lines(batches, lambda heard: json.dumps({**heard.to_json(), **_values(read(heard))}))
        elif sys.stdout.isatty():
            from mqttkit.cli.scan.live_table import show_table

            show_table(batches, read)
        else:
            _print_lines(batches, lambda heard: describe(heard, read(heard)))
    if source.dropped and not quiet:
        click.echo(f"not shown: {', '.join(f'{cause} {n}' for cause, n in source.dropped.items())}", err=True)


def _reader() -> Callable[[Advertisement], Reading | None]:
    """Return a function that decodes advertisements."""
    from mqttkit.decode import Decoders, warn_if_incomplete

    warn_if_incomplete()
    return Decoders().decode


def _read_nothing(_: Advertisement) -> Reading | None:
    return None


def _values(reading: Reading | None) -> dict[str, object]:
    return {} if reading is None else {"values": {value.quantity: value.value for value in reading.values}}


def describe(heard: Advertisement, reading: Reading | None = None) -> str:
    """Return one line: time, address, RSSI, name, and the values, or else companies and services."""
    from mqttkit.scanner.advertisement import format_timestamp, manufacturer_fields, printable

    rssi = "?" if heard.rssi is None else heard.rssi
    line = f"{format_timestamp(heard.timestamp)} {heard.mac_address} {rssi:>4} dBm"
    if heard.local_name:
        line += f"  {printable(heard.local_name)!r}"
    if reading is not None and str(reading):
        return f"{line}  {printable(str(reading))}"
    last, earlier = manufacturer_fields(heard)
    for fields in (*earlier, last):
        line += "".join(f"  {company}={data}" for company, data in fields.items())
    line += "".join(f"  {service}={data.hex()}" for service, data in heard.service_data.items())
    return line + "".join(f"  {service}" for service in heard.service_uuids if service not in heard.service_data)


@contextlib.contextmanager
def _ending(source: Source, duration: float | None) -> Iterator[None]:
    """Close the source after `duration` seconds and at SIGINT and SIGTERM; a second signal ends immediately."""
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
    """Print a line per advertisement; flush after each batch."""
    for batch in batches:
        sys.stdout.write("".join(f"{line(heard)}\n" for heard in batch))
        sys.stdout.flush()
