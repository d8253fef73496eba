"""`mqttkit publish-scan`."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from mqttkit.cli.options.connection import ConnectionOptions, connection_options
from mqttkit.cli.options.help import GroupedCommand
from mqttkit.cli.options.numbers import SOME_SECONDS
from mqttkit.cli.options.setting_option import setting_option
from mqttkit.cli.scan.source_options import source_options

if TYPE_CHECKING:
    from mqttkit.client import MqttClient
    from mqttkit.settings import MqttSettings

FIRST_CONNECTION_SECONDS = 2.0
MAX_UNSENT_BYTES = 64 * 1024


@click.command("publish-scan", cls=GroupedCommand)
@setting_option(
    "--scanner-id", path="scanner.id", metavar="ID", help="Name of this scanner, a level of the topic.  [scanner-01]"
)
@setting_option(
    "--topic", path="publisher.topic", metavar="TEMPLATE", help="Topic template.  [ble/raw/{scanner_id}/{mac_address}]"
)
@setting_option(
    "--status-topic", path="publisher.status_topic", metavar="TOPIC", help="Retain `online` or `offline` on this topic."
)
@setting_option(
    "--max-age", path="publisher.max_age", type=SOME_SECONDS, help="Drop advertisements that wait longer.  [5]"
)
@setting_option("--raw", path="publisher.raw", is_flag=True, help="Add the AD structures as `raw_ad`.")
@setting_option(
    "--stats-interval", path="publisher.stats_interval", type=SOME_SECONDS, help="Time between statistics.  [60]"
)
@source_options
@connection_options
def publish_scan(connection: ConnectionOptions) -> None:
    """Publish each advertisement as one JSON message on ble/raw/{scanner_id}/{mac_address}.

    Runs until Ctrl-C, SIGTERM or the end of a replay. Without a connection advertisements wait for --max-age seconds;
    then they are dropped and counted. Exit code 6 means that some were not published at shutdown.

    \b
    mqttkit publish-scan --scanner-id scanner-01
    mqttkit publish-scan --source replay:room.btsnoop --speed max
    """
    import logging

    from mqttkit.cli.signals import on_interrupt
    from mqttkit.client import MqttClient, checked_settings
    from mqttkit.errors import PublishFailed
    from mqttkit.scan_publisher import SHUTDOWN, ScanPublisher, StatusTopic
    from mqttkit.scanner import open_source

    settings = connection.settings
    options = settings.publisher if connection.qos is None else replace(settings.publisher, qos=connection.qos)
    status = StatusTopic(options.status_topic) if options.status_topic else None
    will = status.will if status else connection.will
    client = MqttClient(checked_settings(_prompt(settings.mqtt)), will=will, retry=connection.retry)
    publisher = ScanPublisher(client, options, settings.scanner.id, lossless=settings.scanner.unpaced, status=status)
    with on_interrupt(publisher.stop), contextlib.closing(client):
        try:
            with open_source(settings.scanner) as source:
                _connect(client, retry=connection.retry)
                publisher.run(source)
        finally:
            client.close(flush=0)
            totals = publisher.finish()
            logging.getLogger(__name__).info("total: %s", totals)
    if lost := totals.dropped[SHUTDOWN]:
        raise PublishFailed(f"{lost} advertisements were not published at shutdown")


def _prompt(settings: MqttSettings) -> MqttSettings:
    """Return the settings with a bound on the bytes in the kernel: advertisements would grow old there."""
    if settings.limits.max_unsent_bytes is not None:
        return settings
    return replace(settings, limits=replace(settings.limits, max_unsent_bytes=MAX_UNSENT_BYTES))


def _connect(client: MqttClient, *, retry: bool) -> None:
    """Start connecting and wait a moment before the scan; without retry, raise the failure."""
    if retry:
        client.start()
        client.wait_connected(FIRST_CONNECTION_SECONDS)
    else:
        client.connect()
