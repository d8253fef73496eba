"""`mqttkit config`."""

from __future__ import annotations

import json
import os
from pathlib import Path

import click

from mqttkit.cli.lazy import Entry, LazyGroup
from mqttkit.cli.options.help import GroupedCommand
from mqttkit.cli.options.loading import profile_values
from mqttkit.config import Effective, find_config, load_settings
from mqttkit.errors import ConfigError

COMMANDS = {
    "init": Entry(__name__, "init", "Write a commented mqttkit.yaml."),
    "check": Entry(__name__, "check", "Validate a settings file."),
    "show": Entry(__name__, "show", "Print the effective settings and where each comes from."),
}


@click.group(cls=LazyGroup, entries=COMMANDS)
def config() -> None:
    """Write, check and show the settings file."""


@click.command(cls=GroupedCommand)
@click.argument("path", default="mqttkit.yaml")
@click.option("--force", is_flag=True, help="Replace an existing file.")
def init(path: str, force: bool) -> None:
    """Write a commented settings file to PATH (mqttkit.yaml). Only you can read it.

    \b
    mqttkit config init
    """
    from mqttkit.config.yaml_writer import commented

    write_new(path, commented(), force)
    click.echo(f"wrote {path}", err=True)


@click.command(cls=GroupedCommand)
@click.argument("path", required=False)
def check(path: str | None) -> None:
    """Validate the settings file PATH; without PATH, the file that commands would use.

    \b
    mqttkit config check
    """
    path = path or find_config(os.environ)
    if path is None:
        raise ConfigError("no settings file found", hint="Write one: mqttkit config init")
    load_settings(path, environ=os.environ, flags={}, profile={})
    click.echo(f"{path}: valid")


@click.command(cls=GroupedCommand)
@click.option("--config", "path", metavar="FILE", help="Settings file.  [mqttkit.yaml, if there is one]")
@click.option("--json", "as_json", is_flag=True, help="Print JSON lines: path, value, origin.")
def show(path: str | None, as_json: bool) -> None:
    """Print the effective settings and where each comes from. Secrets are masked.

    \b
    mqttkit config show --json
    """
    from mqttkit.config.yaml_writer import rows
    from mqttkit.config.yaml_writer import show as as_yaml

    effective = _effective(path)
    if not as_json:
        click.echo(as_yaml(effective), nl=False)
        return
    for row in rows(effective):
        click.echo(json.dumps(row))


def write_new(path: str, text: str, force: bool) -> None:
    """Write a file of mode 0600 atomically; raise ConfigError if it exists, unless `force`."""
    target = Path(path)
    beside = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:
            stream.write(text)
        if force:
            beside.replace(target)
        else:
            os.link(beside, target)
    except FileExistsError as error:
        hint = f"Replace it: mqttkit config init --force {path}"
        raise ConfigError("the file exists", where=path, hint=hint) from error
    except OSError as error:
        raise ConfigError(f"cannot write it: {error.strerror or error}", where=path) from error
    finally:
        beside.unlink(missing_ok=True)


def _effective(path: str | None) -> Effective:
    """Return the settings of a command without connection options."""
    profile, *listeners = profile_values()
    return load_settings(path, environ=os.environ, flags={}, profile=profile, listeners=listeners)
