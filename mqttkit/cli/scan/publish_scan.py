"""`mqttkit publish-scan`: Bluetooth advertisements to a broker."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from mqttkit.cli.options.connection import Connection, connection_options
from mqttkit.cli.options.numbers import SOME_SECONDS
from mqttkit.cli.options.setting_option import setting_option
from mqttkit.cli.scan.source_options import source_options

if TYPE_CHECKING:
    from mqttkit.client import MqttClient

FIRST_CONNECTION_SECONDS = 2.0


@click.command("publish-scan")
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
    "--stats-interval", path="publisher.stats_interval", type=SOME_SECONDS, help="Time between statistics.  [60]"
)
@source_options
@connection_options
def publish_scan(connection: Connection) -> None:
    """Publish each advertisement as one JSON message on ble/raw/{scanner_id}/{mac_address}.

    Runs until Ctrl-C, SIGTERM or the end of a replay; then it flushes, disconnects and ends with 0.
    Without a connection it drops and counts advertisements: it keeps none.

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
    """Start to connect and wait a moment before the scan; without retry, raise the failure."""
    if retry:
        client.start()
        client.wait_connected(FIRST_CONNECTION_SECONDS)
    else:
        client.connect()
