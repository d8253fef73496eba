"""`mqttkit controller devices | dead-letters | decode`: look at state and messages, without a broker."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mqttkit.cli.controller.options import controller_options
from mqttkit.cli.options.help import GroupedCommand
from mqttkit.cli.options.loading import config_option, load_without_broker
from mqttkit.cli.options.setting_option import Command, add_options, setting_option
from mqttkit.errors import UsageError

if TYPE_CHECKING:
    from mqttkit.controller.store import Store, StoredDevice

_STORE = (
    setting_option("--controller-id", path="controller.id", metavar="ID", help="Identifier of the controller."),
    setting_option(
        "--state-file", path="controller.state_file", metavar="FILE", type=click.Path(),
        help="SQLite file of its state.  [in the user's state directory]",
    ),
)  # fmt: skip


def _store_options(command: Command) -> Command:
    """Add the options that name the state file of a controller."""
    return add_options(command, _STORE)


@click.command("dead-letters", cls=GroupedCommand)
@_store_options
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line, with the content of the message.")
@click.option("--delete", is_flag=True, help="Delete the dead letters that are shown.")
@config_option
def dead_letters(*, config: str | None, as_json: bool, delete: bool) -> None:
    """Show the messages that a controller could not handle or deliver, and why. It may be running.

    Signatures are not checked again: see `mqttkit controller decode`.

    \b
    mqttkit controller dead-letters --json
    """
    from mqttkit.cli.output.render import print_json, print_table

    store = _open_store(config)
    try:
        rows = store.dead_letters()
        if as_json:
            for topic, data, reason in rows:
                print_json({"topic": topic, "reason": reason, "message": data.decode(errors="replace")})
        else:
            print_table(("topic", "bytes", "reason"), [(topic, len(data), reason) for topic, data, reason in rows])
        if delete:
            store.delete_dead_letters(len(rows))
    finally:
        store.close()


@click.command(cls=GroupedCommand)
@_store_options
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line, with all fields of the device.")
@click.option("--gone", is_flag=True, help="Show the devices that are gone, too.")
@config_option
def devices(*, config: str | None, as_json: bool, gone: bool) -> None:
    """Show the inventory of a regional controller, or what a local one has found. It may be running.

    Times are those of the controller that found the device.

    \b
    mqttkit controller devices --controller-id rc-1
    """
    from mqttkit.cli.output.render import print_json, print_table

    store = _open_store(config)
    try:
        rows = [row for row in store.devices() if gone or not row.gone]
    finally:
        store.close()
    if as_json:
        for row in rows:
            times = {"first_seen": _time(row.first), "last_seen": _time(row.gone or row.seen)}
            print_json({**json.loads(row.device), "found_by": row.owner, "gone": bool(row.gone), **times})
        return
    columns = ("device", "ip", "kind", "found_by", "status", "first_seen", "last_seen")
    print_table(columns, [_device_cells(row) for row in rows], optional=("kind", "first_seen", "found_by"))


def _device_cells(row: StoredDevice) -> list[str]:
    device = json.loads(row.device)
    ip, kind = (str(device.get(name, "")) for name in ("ip", "kind"))
    status = "gone" if row.gone else "present"
    return [row.key, ip, kind, row.owner, status, _time(row.first), _time(row.gone or row.seen)]


def _time(milliseconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(milliseconds / 1_000))


def _open_store(config: str | None) -> Store:
    """Open the state file that the settings name; raise UsageError if there is none."""
    from mqttkit.controller.configuration import state_file
    from mqttkit.controller.store import Store

    path = state_file(load_without_broker(config).controller)
    if not path.exists():
        raise UsageError(f"there is no state file {path}", hint="Name it: --controller-id ID or --state-file FILE")
    return Store(path)


@click.command(short_help="Verify a message and print its envelope.", cls=GroupedCommand)
@controller_options
@click.option(
    "--topic", required=True, metavar="TOPIC", help="Topic on which it was received; the signature covers it."
)
@click.argument("path", metavar="[FILE]", default="-", type=click.Path(allow_dash=True))
@config_option
def decode(*, config: str | None, topic: str, path: str) -> None:
    """Verify the message in FILE (or stdin) as a controller does, and print its envelope as JSON.

    The age is not checked. Exit code 1: a controller refuses the message; the reason is on stderr.

    \b
    mqttkit controller decode --topic pdsno/discovery/zone-A/local-1 report.json
    """
    from mqttkit.cli.output.render import print_json
    from mqttkit.controller.configuration import open_codec
    from mqttkit.controller.messages.topics import Topics
    from mqttkit.controller.security.gate import open_message

    settings = load_without_broker(config).controller
    try:
        data = sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error}") from error
    opened = open_message(open_codec(settings, signs=False), Topics(settings.base).place(topic), data.strip())
    key: dict[str, Any] = {} if opened.key is None else {"key": opened.key.kid, "role": opened.key.role}
    print_json({**opened.envelope.to_document(), **key})
