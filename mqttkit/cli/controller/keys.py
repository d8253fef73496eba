"""`mqttkit controller key`."""

from __future__ import annotations

import functools
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mqttkit.cli.controller.options import controller_options, key_file_option
from mqttkit.cli.options.connection import ConnectionOptions, terse_connection_options
from mqttkit.cli.options.help import CommandGroup, GroupedCommand
from mqttkit.cli.options.loading import config_option, load_without_broker
from mqttkit.cli.options.numbers import SOME_SECONDS
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
    """Manage the ring of signing keys. Running controllers apply changes within two seconds."""


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
    name = kid or _random_kid()
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


@key.command("rotate", short_help="Replace the active key while controllers run.", cls=GroupedCommand)
@controller_options
@click.option("--kid", metavar="KID", help="Active key to replace.  [the only one]")
@click.option("--new", metavar="KID", help="Identifier of the new key.  [random]")
@click.option("--timeout", type=SOME_SECONDS, default=60.0, help="How long to wait for the proof of a step.  [60]")
@click.option("--keep", type=SOME_SECONDS, help="How long the old key still verifies.  [87000]")
@terse_connection_options
def rotate_key(
    *, connection: ConnectionOptions, kid: str | None, new: str | None, timeout: float, keep: float | None
) -> None:
    """Generate a key, wait until all running controllers accept it, sign with it, and retire the old one later.

    Controllers publish their policies and heartbeats again, signed with the new key, and connect again to renew their
    wills. Each step waits for the proof. If it does not arrive, the command ends with 1 and names what is missing; run
    it again to continue there.

    \b
    mqttkit controller key rotate --kid spring --new summer
    """
    from mqttkit.controller.configuration import key_file as path_of
    from mqttkit.controller.operation.rotation import KEEP_SECONDS, KeyRotation, plan_rotation
    from mqttkit.controller.security.keys import KeyFile, key_to_json, write_private

    settings = connection.settings
    keys = KeyFile(path_of(settings.controller))
    plan = plan_rotation(keys.ring, kid, new or _random_kid(), timeout=timeout, keep=keep or KEEP_SECONDS)
    rotation = KeyRotation(keys, settings.controller, settings.mqtt, plan, lambda line: click.echo(line, err=True))
    made = rotation.prepare()
    write_private(keys.path.with_name(f"{made.kid}.pub.json"), key_to_json(made.public()))
    click.echo(f"{rotation.run().kid} active")


@key.command("export", short_help="Write the keys that one controller needs.")
@on_ring
@click.option("--for", "owner", metavar="ID", required=True, help="Controller that gets the keys.")
@click.option("--out", metavar="FILE", type=click.Path(), required=True, help="File to write, mode 0600.")
def export_keys(keys: KeyFile, owner: str, out: str) -> None:
    """Write the keys that a controller needs to sign and to verify, for `key import` on its machine.

    These are its own key with its secret, and the public keys of all others. A shared key is included with its secret.

    \b
    mqttkit controller key export --for lc-1 --out lc-1.keys.json
    """
    from mqttkit.controller.security.keys import keys_to_json, write_private

    found = keys.ring.for_owner(owner)
    write_private(Path(out), keys_to_json(found))
    signer = found.signer(owner)
    click.echo(f"{out}: {len(found.keys)} keys, {owner} signs with {signer.kid}")


@key.command("import", short_help="Add the keys of a file that `key export` wrote.")
@on_ring
@click.argument("path", metavar="FILE", type=click.Path())
def import_keys(keys: KeyFile, path: str) -> None:
    """Add the keys in FILE to the ring. Keys that the ring has already stay, and get their secret if FILE has it.

    \b
    mqttkit controller key import lc-1.keys.json
    """
    from mqttkit.controller.security.keys import KeyFile

    found = KeyFile(Path(path)).ring
    if not found.keys:
        raise UsageError(f"there are no keys in {path}", hint="Write it with: mqttkit controller key export")
    before = set(keys.ring.keys)
    ring = keys.update(lambda ring: ring.merge(found))
    click.echo(f"{len(set(ring.keys) - before)} keys added, {len(set(ring.keys) & set(found.keys) & before)} known")


@key.command("list")
@on_ring
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
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
            _status(one),
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


def _random_kid() -> str:
    return f"{time.strftime('%Y%m%d')}-{secrets.token_hex(3)}"


def key_file(config: str | None) -> KeyFile:
    """Return the key ring that the settings name."""
    from mqttkit.controller.configuration import key_file as path_of
    from mqttkit.controller.security.keys import KeyFile

    return KeyFile(path_of(load_without_broker(config).controller))


def _status(key: Key) -> str:
    """Return the status, with the time at which a key retires."""
    from mqttkit.controller.security.keys import KeyStatus

    if key.status is KeyStatus.RETIRED or not key.retires:
        return key.status.value
    if key.is_retired:
        return "retired"
    return time.strftime("accepted until %Y-%m-%d %H:%M", time.localtime(key.retires))


def _add(ring: KeyRing, made: Key) -> KeyRing:
    from mqttkit.controller.security.keys import KeyStatus

    first = not any(key.owner == made.owner and key.status is KeyStatus.ACTIVE for key in ring)
    ring = ring.add(made)
    return ring.activate(made.kid) if first else ring
