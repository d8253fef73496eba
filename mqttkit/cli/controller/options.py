"""Options of the commands about controllers. All are settings."""

from __future__ import annotations

import click

from mqttkit.cli.options.numbers import SOME_SECONDS
from mqttkit.cli.options.setting_option import Command, add_options, setting_option

key_file_option = setting_option(
    "--key-file", path="controller.key_file", metavar="FILE", type=click.Path(),
    help="Key ring.  [in the user's state directory]",
)  # fmt: skip
sender_option = setting_option(
    "--controller-id", path="controller.id", metavar="ID", help="Who sends it.  [the owner of a key of the ring]"
)
_SHARED = (
    setting_option("--region", path="controller.region", metavar="NAME", help="Region.  [zone-A]"),
    setting_option("--base", path="controller.base", metavar="TOPIC", help="First level of all topics.  [pdsno]"),
    key_file_option,
    setting_option("--unsigned", path="controller.unsigned", is_flag=True, help="Neither sign nor verify messages."),
)
_RUNNING = (
    setting_option("--controller-id", path="controller.id", metavar="ID", help="Identifier; -i works as well."),
    setting_option(
        "--transport", path="controller.transports", multiple=True, metavar="NAME",
        help="mqtt, http or memory; repeat it in order of preference.",
    ),
    setting_option(
        "--http-listen", path="controller.http_listen", metavar="HOST:PORT", help="Serve HTTP to other controllers."
    ),
    setting_option("--http-url", path="controller.http_url", metavar="URL", help="HTTP server of another controller."),
    setting_option(
        "--state-file", path="controller.state_file", metavar="FILE", type=click.Path(),
        help="SQLite file for the state.  [in the user's state directory]",
    ),
    setting_option(
        "--heartbeat", path="controller.heartbeat_interval", type=SOME_SECONDS, help="Time between heartbeats.  [10]"
    ),
    click.option("--duration", type=SOME_SECONDS, help="End after this time."),
)  # fmt: skip


def controller_options(command: Command) -> Command:
    """Add the options that each command about controllers has."""
    return add_options(command, _SHARED)


def run_options(command: Command) -> Command:
    """Add the options of a controller that runs; the command gets `duration`."""
    return add_options(command, (*_SHARED, *_RUNNING))
