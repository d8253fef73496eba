"""`mqttkit broker backup …`."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import click

from mqttkit.cli.broker.options import json_option, name_option, named_broker
from mqttkit.cli.logs import set_up_logging
from mqttkit.cli.options.numbers import Number

file_argument = click.argument("path", metavar="FILE", type=click.Path(path_type=Path))


@click.group("backup")
def backup_group() -> None:
    """Create, verify and restore archives of a broker: messages, sessions, users, ACL and certificates."""


@backup_group.command("create")
@file_argument
@click.option("--keep", type=Number("N", low=1, high=1_000, whole=True), help="Keep N archives: FILE, FILE.1, FILE.2 …")
@name_option
@json_option
def backup_create(path: Path, keep: int | None, name: str, as_json: bool) -> None:
    """Write an archive; the broker may run. It contains password hashes and keys: its mode is 0600."""
    from mqttkit.broker.backup import create_backup

    manifest = create_backup(named_broker(name), path, keep=keep or 0)
    _show(path, manifest, as_json=as_json)


@backup_group.command("verify", short_help="Verify an archive on a temporary broker.")
@file_argument
@name_option
@json_option
def backup_verify(path: Path, name: str, as_json: bool) -> None:  # noqa: ARG001  every backup command takes --name
    """Verify an archive: checksums, the database's structure, and a temporary broker that loads and saves it."""
    from mqttkit.broker.backup import verify_backup

    set_up_logging()
    _show(path, verify_backup(path).manifest, as_json=as_json)


@backup_group.command("restore", short_help="Verify an archive and restore it.")
@file_argument
@name_option
@json_option
def backup_restore(path: Path, name: str, as_json: bool) -> None:
    """Verify an archive and replace the stopped broker's files with it. The old files are kept."""
    from mqttkit.broker.backup import restore_backup

    archive, kept = restore_backup(named_broker(name), path)
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
    click.echo(f"  {len(manifest.files)} files: {', '.join(manifest.files)}")
