"""`mqttkit broker backup …`."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import click

from mqttkit.cli.broker.accounts import passphrase
from mqttkit.cli.broker.options import json_option, name_option, named_broker
from mqttkit.cli.logs import set_up_logging
from mqttkit.cli.options.help import CommandGroup
from mqttkit.cli.options.numbers import Number
from mqttkit.errors import UsageError

passphrase_option = click.option(
    "--passphrase-file",
    metavar="FILE",
    help="Read the passphrase of the authority's key from the first line of FILE; - is stdin.",
)
file_argument = click.argument("path", metavar="FILE", type=click.Path(path_type=Path))


CONTENTS = {
    "data/mosquitto.db": "messages and sessions",
    "config/passwd": "users",
    "config/acl": "ACL",
    "config/mosquitto.conf": "mosquitto.conf",
    "broker.json": "settings (listeners, ports, limits)",
    "bridges.json": "bridges to other brokers, with their passwords",
    "config/certs/server.crt": "the server's certificate and key",
    "ca/ca.key": "the authority's key, encrypted",
}
WITHOUT = {"broker.json": "settings: it was created by an older mqttkit", "ca/ca.key": "the authority's key"}


@click.group("backup", cls=CommandGroup)
def backup_group() -> None:
    """Create, verify and restore archives of a broker: messages, sessions, users, ACL and certificates."""


@backup_group.command("create")
@file_argument
@click.option("--keep", type=Number("N", low=1, high=1_000, whole=True), help="Keep N archives: FILE, FILE.1, FILE.2 …")
@click.option("--with-authority-key", is_flag=True, help="Include the authority's key, encrypted with a passphrase.")
@passphrase_option
@name_option
@json_option
def backup_create(
    path: Path, keep: int | None, with_authority_key: bool, passphrase_file: str | None, name: str, as_json: bool
) -> None:
    """Write an archive; the broker may run. It contains password hashes and keys: its mode is 0600.

    \b
    mqttkit broker backup create broker.backup --keep 7
    """
    from mqttkit.broker.backup import create_backup

    if passphrase_file is not None and not with_authority_key:
        raise UsageError("--passphrase-file needs --with-authority-key")
    secret = passphrase(passphrase_file, new=True) if with_authority_key else None
    manifest = create_backup(named_broker(name), path, keep=keep or 0, passphrase=secret)
    _show(path, manifest, as_json=as_json)


@backup_group.command("verify", short_help="Verify an archive on a temporary broker.")
@file_argument
@name_option
@json_option
def backup_verify(path: Path, name: str, as_json: bool) -> None:  # noqa: ARG001  every backup command takes --name
    """Verify an archive: checksums, the database's structure, and a temporary broker that loads and saves it.

    \b
    mqttkit broker backup verify broker.backup
    """
    from mqttkit.broker.backup import verify_backup

    set_up_logging()
    _show(path, verify_backup(path).manifest, as_json=as_json)
    if not as_json:
        click.echo("  verified: checksums, structure, and a broker that loads it")


@backup_group.command("restore", short_help="Verify an archive and restore it.")
@file_argument
@passphrase_option
@name_option
@json_option
def backup_restore(path: Path, passphrase_file: str | None, name: str, as_json: bool) -> None:
    """Verify an archive and replace the stopped broker's files and settings with it. The old files are kept.

    A missing broker is created. --passphrase-file restores the authority's key.

    \b
    mqttkit broker backup restore broker.backup
    """
    from mqttkit.broker.backup import broker_for_restore, restore_backup

    set_up_logging()
    secret = None if passphrase_file is None else passphrase(passphrase_file, new=False)
    archive, kept = restore_backup(broker_for_restore(name, path), path, passphrase=secret)
    click.echo(f"the old files are in {kept}", err=True)
    _show(path, archive.manifest, as_json=as_json)


def _show(path: Path, manifest: Any, *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(manifest)))
        return
    summary = manifest.summary
    click.echo(f"{path}: broker {manifest.name} of {manifest.created}, mosquitto {manifest.version}")
    click.echo(
        f"  {summary.retained} retained messages, {summary.sessions} sessions, {summary.expiring} that may expire"
    )
    known = [words for member, words in CONTENTS.items() if member in manifest.files]
    click.echo(f"  contains {', '.join(known)}")
    for member, words in WITHOUT.items():
        if member not in manifest.files:
            click.echo(f"  does not contain {words}")
