"""`mqttkit controller key`: the ring of signing keys."""

from __future__ import annotations

import functools
import os
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from mqttkit.cli.flags import flag_option, given_flags
from mqttkit.controller.security.keys import (
    ROLES,
    Key,
    KeyFile,
    KeyRing,
    KeyStatus,
    generate,
    key_from_json,
    key_to_json,
    write_private,
)
from mqttkit.errors import UsageError
from mqttkit.settings import ControllerSettings

ALGORITHMS = {"HS256": "HS256", "EdDSA": "Ed25519", "Ed25519": "Ed25519"}


def on_ring(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that name the key ring, and pass the ring."""

    @functools.wraps(command)
    def call(config: str | None, **given: Any) -> None:
        command(keys=key_file(config), **given)

    call = click.option("--config", type=click.Path(), help="Settings file.")(call)
    return flag_option("--key-file", "controller.key_file", type=click.Path(), help="Key ring.")(call)


@click.group()
def key() -> None:
    """Keep the ring of signing keys. Controllers that run follow it within a second.

    To rotate: generate, add on every machine, activate on every machine, retire the old key.
    """


@key.command("generate")
@on_ring
@click.option("--kid", help="Key identifier.  [made up]")
@click.option(
    "--alg", type=click.Choice(list(ALGORITHMS)), default="EdDSA", help="EdDSA makes a pair, HS256 a shared secret."
)
@click.option("--owner", help="Controller that may use the key; without it, every controller may.")
@click.option("--role", type=click.Choice(list(ROLES)), help="Role of the controllers that may use the key.")
@click.option("--region", help="Region of a local or regional key.  [zone-A]")
@click.option("--out", type=click.Path(), help="Write it for another ring: shared secret, or public half.")
def generate_key(
    *,
    keys: KeyFile,
    kid: str | None,
    alg: str,
    owner: str | None,
    role: str | None,
    region: str | None,
    out: str | None,
) -> None:
    """Make a key and add it. If its owner has no active key yet, it becomes the active one.

    Give each controller its own key with --owner, --role and --region: receivers then refuse what the role may not
    send. A key without an owner and a role may sign every message.
    """
    if region is None and role in ("local", "regional"):
        region = ControllerSettings().region
    name = kid or f"{time.strftime('%Y%m%d')}-{secrets.token_hex(3)}"
    made = generate(name, ALGORITHMS[alg], owner=owner, role=role, region=region)
    ring = keys.update(lambda ring: _add(ring, made))
    if out is not None:
        write_private(Path(out), key_to_json(made.public()))
    click.echo(f"{made.kid} {ring.keys[made.kid].status.value}")


@key.command("add", short_help="Add the key in the file PATH: it verifies, but does not sign yet.")
@on_ring
@click.argument("path", type=click.Path())
def add_key(keys: KeyFile, path: str) -> None:
    """Add the key in the file PATH, as `generate --out` wrote it: it verifies, but does not sign yet."""
    try:
        text = Path(path).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read {path}: {error}") from error
    found = key_from_json(text, path)
    keys.update(lambda ring: ring.add(found))
    click.echo(f"{found.kid} accepted")


@key.command("activate", short_help="Sign with the key KID from now on.")
@on_ring
@click.argument("kid")
def activate_key(keys: KeyFile, kid: str) -> None:
    """Sign with the key KID from now on; the previous one still verifies."""
    keys.update(lambda ring: ring.activate(kid))
    click.echo(f"{kid} active")


@key.command("retire")
@on_ring
@click.argument("kid")
def retire_key(keys: KeyFile, kid: str) -> None:
    """Refuse what the key KID signed from now on."""
    keys.update(lambda ring: ring.retire(kid))
    click.echo(f"{kid} retired")


@key.command("list")
@on_ring
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def list_keys(keys: KeyFile, as_json: bool) -> None:
    """Show the keys, never their secrets."""
    from mqttkit.cli.render import print_json, print_table

    rows = [
        [
            one.kid,
            one.algorithm,
            one.status.value,
            one.owner or "",
            one.role or "",
            one.region or "",
            "yes" if one.can_sign else "no",
        ]
        for one in keys.ring
    ]
    columns = ("kid", "algorithm", "status", "owner", "role", "region", "can_sign")
    if not as_json:
        print_table(columns, rows)
        return
    for row in rows:
        print_json(dict(zip(columns, row, strict=True)))


def key_file(config: str | None) -> KeyFile:
    """Return the key ring that the settings name."""
    from mqttkit.config import load_settings
    from mqttkit.controller.controller import key_file as path_of

    loaded = load_settings(config, environ=os.environ, flags=given_flags(), profile={})
    return KeyFile(path_of(loaded.settings.controller))


def _add(ring: KeyRing, made: Key) -> KeyRing:
    first = not any(key.owner == made.owner and key.status is KeyStatus.ACTIVE for key in ring)
    ring = ring.add(made)
    return ring.activate(made.kid) if first else ring
