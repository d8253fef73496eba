"""What `broker user` and `broker acl` share: reading and changing the accounts, and passwords."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from mqttkit.cli.broker.options import named_broker
from mqttkit.errors import UsageError

user_argument = click.argument("user", metavar="NAME")
password_file_option = click.option(
    "--password-file", metavar="FILE", help="Read the password from the first line of FILE; - is stdin."
)


def read_accounts(name: str) -> Any:
    """Return the users and rules of the broker of that name."""
    from mqttkit.broker.live.accounts import read_accounts as read

    return read(named_broker(name))


def change_accounts(name: str, edit: Any) -> bool:
    """Apply `edit` to the users and rules of a broker; return True if the broker runs and has applied it."""
    from mqttkit.broker.live.accounts import change_accounts as change

    return change(named_broker(name), edit)


def new_password(*, generate: bool, password_file: str | None, weak: bool) -> str:
    """Return the password that the options name, or ask for it; raise UsageError for a weak one."""
    from mqttkit.broker.accounts.passwords import check_strength, generate_password

    if generate and password_file is not None:
        raise UsageError("use either --generate or --password-file")
    if generate:
        return generate_password()
    if password_file is not None:
        password = _from_file(password_file)
    else:
        password = click.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
    if not weak:
        check_strength(password)
    return password


def known_password(password_file: str | None) -> str:
    """Return the password in the file, or ask for it."""
    if password_file is not None:
        return _from_file(password_file)
    return str(click.prompt("Password", hide_input=True, err=True))


def _from_file(name: str) -> str:
    from mqttkit.files import read_secret_line

    if name != "-":
        return read_secret_line(Path(name))
    line = sys.stdin.readline().rstrip("\r\n")
    if not line:
        raise UsageError("stdin is empty: it must contain the password")
    return line


def say(text: str) -> None:
    """Print a note on stderr."""
    click.echo(text, err=True)
