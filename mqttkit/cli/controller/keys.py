"""`mqttkit controller key`."""

from __future__ import annotations

import functools
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mqttkit.cli.controller.options import key_file_option
from mqttkit.cli.options.help import CommandGroup
from mqttkit.cli.options.loading import config_option, load_without_broker
from mqttkit.cli.options.setting_option import add_options
from mqttkit.errors import UsageError
from mqttkit.settings import ControllerSettings

if TYPE_CHECKING:
    from mqttkit.controller.security.keys import Key, KeyFile, KeyRing

ROLES = ("local", "regional", "global", "operator")
"""Roles that a key can have; those of `mqttkit.controller.security.keys`, whose import takes a tenth of a second."""
ALGORITHMS = {"HS256": "HS256", "EdDSA": "Ed25519", "Ed25519": "Ed25519"}


def on_ring(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that name the key ring; the command gets the ring as `keys`."""

    @functools.wraps(command)
    def call(config: str | None, **given: Any) -> None:
        command(keys=key_file(config), **given)

    return add_options(call, (key_file_option, config_option))


@click.group(cls=CommandGroup)
def key() -> None:
    """Manage the ring of signing keys. Running controllers apply changes within a second.

    To rotate a key: generate one, add it on every machine, activate it on every machine, retire the old key.
    """


@key.command("generate")
@on_ring
@click.option("--kid", metavar="KID", help="Key identifier.  [random]")
@click.option(
    "--alg",
    type=click.Choice(list(ALGORITHMS)),
    default="EdDSA",
    help="EdDSA: a key pair. HS256: one shared secret.  [EdDSA]",
)
@click.option("--owner", metavar="ID", help="Controller that may use the key; without it, every controller may.")
@click.option("--role", type=click.Choice(ROLES), help="Role of the controllers that may use the key.")
@click.option("--region", metavar="NAME", help="Region of a local or regional key.  [zone-A]")
@click.option(
    "--out", metavar="FILE", type=click.Path(), help="Write it for other rings: the public key, or the shared secret."
)
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
    """Generate a key and add it to the ring. If its owner has no active key yet, it becomes the active one.

    Give each controller its own key with --owner, --role and --region: receivers then refuse what the role may not
    send. A key without an owner and a role may sign every message.

    \b
    mqttkit controller key generate --owner local-1 --role local --region zone-A
    """
    from mqttkit.controller.security.keys import generate, key_to_json, write_private

    if region is None and role in ("local", "regional"):
        region = ControllerSettings().region
    name = kid or f"{time.strftime('%Y%m%d')}-{secrets.token_hex(3)}"
    made = generate(name, ALGORITHMS[alg], owner=owner, role=role, region=region)
    ring = keys.update(lambda ring: _add(ring, made))
    if out is not None:
        write_private(Path(out), key_to_json(made.public()))
    click.echo(f"{made.kid} {ring.keys[made.kid].status.value}")


@key.command("add", short_help="Add a key for verifying messages.")
@on_ring
@click.argument("path", metavar="FILE", type=click.Path())
def add_key(keys: KeyFile, path: str) -> None:
    """Add the key in FILE, which `generate --out` wrote. It verifies messages, but does not sign yet.

    \b
    mqttkit controller key add local-1.key
    """
    from mqttkit.controller.security.keys import key_from_json

    try:
        text = Path(path).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read {path}: {error}") from error
    found = key_from_json(text, path)
    keys.update(lambda ring: ring.add(found))
    click.echo(f"{found.kid} accepted")


@key.command("activate", short_help="Sign with a key from now on.")
@on_ring
@click.argument("kid")
def activate_key(keys: KeyFile, kid: str) -> None:
    """Sign with the key KID from now on; the previous one still verifies.

    \b
    mqttkit controller key activate local-1-2026
    """
    keys.update(lambda ring: ring.activate(kid))
    click.echo(f"{kid} active")


@key.command("retire")
@on_ring
@click.argument("kid")
def retire_key(keys: KeyFile, kid: str) -> None:
    """Refuse messages signed with the key KID from now on.

    \b
    mqttkit controller key retire local-1-2025
    """
    keys.update(lambda ring: ring.retire(kid))
    click.echo(f"{kid} retired")


@key.command("list")
@on_ring
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def list_keys(keys: KeyFile, as_json: bool) -> None:
    """Show the keys, never their secrets.

    \b
    mqttkit controller key list
    """
    from mqttkit.cli.output.render import print_json, print_table

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
    from mqttkit.controller.configuration import key_file as path_of
    from mqttkit.controller.security.keys import KeyFile

    return KeyFile(path_of(load_without_broker(config).controller))


def _add(ring: KeyRing, made: Key) -> KeyRing:
    from mqttkit.controller.security.keys import KeyStatus

    first = not any(key.owner == made.owner and key.status is KeyStatus.ACTIVE for key in ring)
    ring = ring.add(made)
    return ring.activate(made.kid) if first else ring
