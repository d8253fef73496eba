"""`mqttkit broker backup …`, and `mqttkit broker compose`."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import click

from mqttkit.cli.broker.life import json_option, name_option
from mqttkit.cli.options import set_up_logging
from mqttkit.errors import UsageError

file_argument = click.argument("path", metavar="FILE", type=click.Path(path_type=Path))


@click.group("backup")
def backup_group() -> None:
    """Make, prove and restore archives of a broker: messages, sessions, users, ACL and certificates."""


@backup_group.command("create")
@file_argument
@click.option("--keep", type=click.IntRange(1, 1_000), help="Rotate: keep this many, as FILE, FILE.1, FILE.2 …")
@name_option
@json_option
def backup_create(path: Path, keep: int | None, name: str, as_json: bool) -> None:
    """Write an archive, of a running broker too. It holds password hashes and keys: mode 0600."""
    from mqttkit.broker.backup import create_backup

    manifest = create_backup(_broker(name), path, keep=keep or 0)
    _show(path, manifest, as_json=as_json)


@backup_group.command("verify", short_help="Prove an archive on a throwaway broker.")
@file_argument
@name_option
@json_option
def backup_verify(path: Path, name: str, as_json: bool) -> None:  # noqa: ARG001 - every form takes --name
    """Prove an archive: sums, the database's structure, and a throwaway broker that loads and saves it."""
    from mqttkit.broker.backup import verify_backup

    set_up_logging()
    _show(path, verify_backup(path).manifest, as_json=as_json)


@backup_group.command("restore", short_help="Prove an archive and bring it back.")
@file_argument
@name_option
@json_option
def backup_restore(path: Path, name: str, as_json: bool) -> None:
    """Prove an archive and put its files in the place of the stopped broker's; the old ones are kept."""
    from mqttkit.broker.backup import restore_backup

    archive, kept = restore_backup(_broker(name), path)
    click.echo(f"the old files are in {kept}", err=True)
    _show(path, archive.manifest, as_json=as_json)


@click.command("compose")
@name_option
def compose(name: str) -> None:
    """Print a compose file with the same set-up as the broker's container."""
    from mqttkit.broker.backends.docker.backend import DockerBroker
    from mqttkit.broker.profile import BrokerPaths, BrokerSpec, load_spec, read_profile

    paths = BrokerPaths.of(name)
    spec = load_spec(paths) or BrokerSpec(name=name, backend="docker", websocket_port=9001)
    if spec.backend not in ("auto", "docker"):
        raise UsageError(f"broker {name!r} runs with the {spec.backend} backend: it has no container")
    profile = read_profile(paths)
    image = profile.image if profile and profile.image and "@sha256" in profile.image else None
    broker = DockerBroker(spec, paths)
    plan = broker.plan if image is None or spec.image else dataclasses.replace(broker.plan, image=image)
    click.echo(plan.compose(), nl=False)


def _broker(name: str) -> Any:
    from mqttkit.broker import existing_broker

    set_up_logging()
    return existing_broker(name)


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
