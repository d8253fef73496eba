"""Options that the `broker` commands share, and the broker that --name names."""

from __future__ import annotations

from typing import Any

import click

from mqttkit.broker.profile import TUNING_PROFILES
from mqttkit.cli.logs import set_up_logging
from mqttkit.cli.options.numbers import Number
from mqttkit.cli.options.setting_option import Command, add_options

TUNING = (
    "max_connections",
    "max_queued_messages",
    "max_queued_bytes",
    "max_inflight_messages",
    "max_packet_size",
    "autosave_interval",
    "persistent_client_expiration",
    "persistence",
)

name_option = click.option("--name", default="default", show_default=True, metavar="NAME", help="Name of the broker.")
discard_option = click.option(
    "--discard-unsaved", is_flag=True, help="Stop it even if it cannot save; messages that are not on disk are lost."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


LISTENER_PORT = Number("PORT", low=0, high=65_535, whole=True)
LIMIT = Number("N", whole=True)
BACKENDS = ("auto", "docker", "process", "embedded")
_SPEC_OPTIONS = (
    click.option("--backend", type=click.Choice(BACKENDS), help="What runs the broker.  [auto: the first available]"),
    click.option("--port", type=LISTENER_PORT, help="MQTT port; 0 picks a free one.  [1883]"),
    click.option("--plain/--no-plain", default=None, help="Also listen without TLS; --no-plain needs --tls-port."),
    click.option("--websocket-port", type=LISTENER_PORT, help="WebSocket port; 0 disables it."),
    click.option("--tls-port", type=LISTENER_PORT, help="TLS port; 0 disables it. Creates the certificate."),
    click.option("--websocket-tls/--no-websocket-tls", default=None, help="Use TLS for WebSockets (wss)."),
    click.option(
        "--client-certificates/--no-client-certificates", default=None, help="Require a client certificate for TLS."
    ),
    click.option(
        "--certificate-users/--no-certificate-users",
        default=None,
        help="Take the user from the client certificate's common name, without a password.",
    ),
    click.option("--listen", metavar="ADDRESS", help="Address to listen on.  [127.0.0.1]"),
    click.option("--image", metavar="IMAGE", help="Docker image."),
    click.option("--network", metavar="NAME", help="Docker network to join: its containers reach mqttkit-NAME:1883."),
    click.option("--anonymous/--no-anonymous", default=None, help="Let clients connect without a user."),
    click.option("--allow-remote-anonymous", is_flag=True, default=None, help="Let them connect from the network too."),
    click.option(
        "--log-type",
        "log_types",
        multiple=True,
        type=click.Choice(("debug", "subscribe", "unsubscribe", "websockets", "none")),
        help="Log this too; debug includes denied publishes, none resets it. Can be repeated.",
    ),
    click.option("--profile", "tuning", type=click.Choice(TUNING_PROFILES), help="Tuning profile.  [default]"),
    click.option("--max-connections", type=LIMIT, help="Maximum number of connected clients."),
    click.option("--max-queued-messages", type=LIMIT, help="Messages kept for a disconnected client."),
    click.option("--max-queued-bytes", type=LIMIT, help="Bytes of those messages."),
    click.option("--max-inflight-messages", type=LIMIT, help="Unacknowledged messages to a client."),
    click.option("--max-packet-size", type=LIMIT, help="Largest packet, bytes."),
    click.option("--autosave-interval", type=LIMIT, help="Seconds between saves to disk."),
    click.option("--persistent-client-expiration", type=LIMIT, help="Days until the session of an absent client ends."),
    click.option("--persistence/--no-persistence", default=None, help="Keep messages across restarts."),
)


def spec_options(command: Command) -> Command:
    """Add the options that describe a broker; those not given keep their last value."""
    return add_options(command, _SPEC_OPTIONS)


def named_broker(name: str) -> Any:
    """Return the broker of that name; raise UsageError if it was never set up. Logs on stderr from now on."""
    from mqttkit.broker import existing_broker

    set_up_logging()
    return existing_broker(name)
