"""`mqttkit decode`."""

from __future__ import annotations

import contextlib
import logging
import time
from collections import Counter
from typing import TYPE_CHECKING

import click

from mqttkit.cli.options.connection import ConnectionOptions, connection_options
from mqttkit.cli.options.help import GroupedCommand
from mqttkit.cli.options.numbers import SOME_SECONDS, Number
from mqttkit.cli.options.setting_option import file_option, setting_option

if TYPE_CHECKING:
    from mqttkit.decode import Decoders, Reading
    from mqttkit.decode.reading import Decode
    from mqttkit.errors import RecordingError
    from mqttkit.scanner import Advertisement
    from mqttkit.settings import DecodeSettings

LISTED = 20
"""Unknown devices that the summary lists."""
DAY = 86_400
DAYS = Number("DAYS", low=0, above=True)


@click.command(cls=GroupedCommand, default_qos="")
@click.option("--once", metavar="FILE", help="Decode a recording, print a line per reading, and end.")
@click.option("--json", "as_json", is_flag=True, help="With --once: print JSON lines.")
@file_option("--keys", path="decode.keys_file", help="Bind keys: a MAC address and a key in hex on each line.")
@setting_option(
    "--theengs",
    path="decode.theengs",
    is_flag=True,
    help="Ask Theengs Decoder about devices that no other decoder knows.",
)
@setting_option("--raw", path="decode.raw", metavar="FILTER", help="Topic filter of the advertisements.  [ble/raw/#]")
@setting_option(
    "--state", path="decode.state", metavar="TEMPLATE", help="Topic template of the states.  [ble/state/{mac_address}]"
)
@setting_option(
    "--gateway-status",
    path="decode.gateway_status",
    metavar="TEMPLATE",
    help="Status topics of the gateways, with {scanner_id}.",
)
@setting_option(
    "--prefix", path="decode.prefix", metavar="PREFIX", help="Discovery prefix of Home Assistant.  [homeassistant]"
)
@setting_option(
    "--no-discovery", expand=lambda given: {"decode.discovery": not given}, is_flag=True, help="Publish states only."
)
@setting_option(
    "--away-after", path="decode.away_after", type=SOME_SECONDS, help="Silence after which a device is away.  [300]"
)
@click.option("--remove-silent", type=DAYS, help="List devices that were silent for DAYS, and end.")
@click.option("--yes", is_flag=True, help="With --remove-silent: remove these devices.")
@connection_options
def decode(
    connection: ConnectionOptions,
    *,
    once: str | None,
    as_json: bool,
    remove_silent: float | None,
    yes: bool,
) -> None:
    """Decode Bluetooth thermometers and other sensors for Home Assistant.

    Subscribes to the advertisements of all gateways and publishes one retained state per device. Without
    `pip install 'mqttkit[decode]'` only iBeacon, Eddystone and ATC thermometers are decoded.

    \b
    mqttkit decode -h broker.example
    mqttkit decode --once room.jsonl
    mqttkit decode --remove-silent 30
    """
    from mqttkit.decode import Decoders, warn_if_incomplete
    from mqttkit.decode.keys import read_keys

    settings = connection.settings.decode
    if remove_silent is not None:
        _remove(connection, settings, remove_silent, yes=yes)
        return
    warn_if_incomplete()
    keys = read_keys(settings.keys_file) if settings.keys_file else {}
    decoders = Decoders(keys, last=_open_theengs() if settings.theengs else None)
    if once is not None:
        _decode_recording(decoders, once, as_json=as_json)
    else:
        _serve(connection, decoders, settings)


def _open_theengs() -> Decode:
    from mqttkit.decode.theengs import open_parser

    return open_parser()


def _serve(connection: ConnectionOptions, decoders: Decoders, settings: DecodeSettings) -> None:
    from mqttkit.cli.signals import on_interrupt
    from mqttkit.client import MqttClient, checked_settings
    from mqttkit.decode.service import DecodeService, will_of

    client = MqttClient(checked_settings(connection.settings.mqtt), will=will_of(settings), retry=connection.retry)
    service = DecodeService(client, decoders, settings)
    with on_interrupt(service.stop), contextlib.closing(client):
        if connection.retry:
            client.start()
        else:
            client.connect()
        service.run()
    logging.getLogger(__name__).info("total: %s", service)


def _remove(connection: ConnectionOptions, settings: DecodeSettings, days: float, *, yes: bool) -> None:
    from mqttkit.client import MqttClient, checked_settings
    from mqttkit.decode.removal import find_published, remove
    from mqttkit.errors import PublishFailed

    with MqttClient(checked_settings(connection.settings.mqtt)) as client:
        client.connect()
        now = time.time()
        silent = [device for device in find_published(client, settings) if now - device.last_seen >= days * DAY]
        for device in silent:
            click.echo(f"{device.mac_address}  silent for {(now - device.last_seen) / DAY:.1f} days  {device.name}")
        if yes and (failed := remove(client, silent)):
            raise PublishFailed(f"the broker did not acknowledge the removal of {failed} messages")
    done = "removed" if yes else "to remove; add --yes to remove them"
    click.echo(f"{len(silent)} devices {done}", err=True)


def _decode_recording(decoders: Decoders, path: str, *, as_json: bool) -> None:
    from mqttkit.cli.scan.readings import json_line, text_line
    from mqttkit.scanner.recording import read_recording

    line = json_line if as_json else text_line
    silent: dict[str, tuple[Advertisement, Reading | None]] = {}
    speaking = set()
    invalid, first = 0, ""

    def skip(error: RecordingError) -> None:
        nonlocal invalid, first
        invalid += 1
        first = first or str(error)

    for heard in read_recording(path, skip=skip):
        reading = decoders.decode(heard)
        if reading is not None and reading.values:
            speaking.add(heard.mac_address)
            click.echo(line(heard, reading))
        else:
            silent[heard.mac_address] = (heard, reading)
    _summarise(decoders, [found for mac_address, found in silent.items() if mac_address not in speaking])
    if invalid:
        click.echo(f"{invalid} invalid records skipped; the first: {first}", err=True)


def _summarise(decoders: Decoders, silent: list[tuple[Advertisement, Reading | None]]) -> None:
    """Report on stderr how much was decoded, and each device without values with what it needs."""
    from mqttkit.cli.scan.scan import describe

    counts = decoders.counts
    click.echo(f"{counts.decoded} of {counts.advertisements} advertisements have values", err=True)
    for heard, reading in silent[:LISTED]:
        why = "no decoder" if reading is None else f"{reading.decoder}: {str(reading) or 'no values'}"
        click.echo(f"  {why}: {describe(heard)}", err=True)
    if len(silent) > LISTED:
        click.echo(f"  and {len(silent) - LISTED} more devices", err=True)
    for decoder, count in Counter(counts.failed).items():
        click.echo(f"  {decoder} failed {count} times", err=True)
