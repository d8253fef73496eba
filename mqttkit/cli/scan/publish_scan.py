"""`mqttkit publish-scan`: Bluetooth advertisements to a broker."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from mqttkit.cli.flags import flag_option
from mqttkit.cli.options import Connection, connection_options
from mqttkit.cli.scan.source_options import source_options

if TYPE_CHECKING:
    from mqttkit.client import MqttClient

FIRST_CONNECTION_SECONDS = 2.0


@click.command("publish-scan")
@flag_option("--scanner-id", "scanner.id", help="Name of this scanner, a level of the topic.  [scanner-01]")
@flag_option("--topic", "publisher.topic", help="Topic template.  [ble/raw/{scanner_id}/{mac_address}]")
@flag_option("--status-topic", "publisher.status_topic", help="Keep a retained online or offline here.")
@flag_option("--stats-interval", "publisher.stats_interval", type=float, help="Seconds between statistics.  [60]")
@source_options
@connection_options
def publish_scan(connection: Connection) -> None:
    """Publish each advertisement as one JSON message on ble/raw/{scanner_id}/{mac_address}.

    Runs until it is told to stop (Ctrl-C, SIGTERM) or a replay ends; then flushes, disconnects and ends with 0.
    While the broker is away advertisements are dropped and counted: nothing is kept.

    \b
    mqttkit publish-scan --scanner-id scanner-01
    mqttkit publish-scan --source replay:room.btsnoop --speed max
    """
    import logging

    from mqttkit.cli.signals import on_interrupt
    from mqttkit.client import MqttClient
    from mqttkit.scan_publisher import ScanPublisher, StatusTopic
    from mqttkit.scanner import open_source

    settings = connection.settings
    status = StatusTopic(settings.publisher.status_topic) if settings.publisher.status_topic else None
    will = status.will if status else connection.will
    with MqttClient(settings.mqtt, will=will, retry=connection.retry) as client:
        publisher = ScanPublisher(
            client, settings.publisher, settings.scanner.id, lossless=settings.scanner.unpaced, status=status
        )
        with on_interrupt(publisher.stop), open_source(settings.scanner) as source:
            _connect(client, retry=connection.retry)
            try:
                publisher.run(source)
            finally:
                logging.getLogger(__name__).info("total: %s", publisher.totals())


def _connect(client: MqttClient, *, retry: bool) -> None:
    """Begin to connect, and give it a moment before the scan; without retry a failure is the end."""
    if retry:
        client.start()
        client.wait_connected(FIRST_CONNECTION_SECONDS)
    else:
        client.connect()
