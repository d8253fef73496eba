"""What `broker user` and `broker acl` share: reading and changing the accounts, and passwords."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import click

from mqttkit.cli.broker.options import named_broker
from mqttkit.errors import UsageError

DESCRIPTORS = ("/dev/fd/", "/proc/self/fd/")
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
    password = _from_file(password_file) if password_file is not None else _ask("Password", confirmation_prompt=True)
    if not weak:
        check_strength(password)
    return password


def known_password(password_file: str | None) -> str:
    """Return the password in the file, or ask for it."""
    if password_file is not None:
        return _from_file(password_file)
    return _ask("Password")


def passphrase(path: str | None, *, new: bool) -> str:
    """Return the passphrase in the file, or ask for it, twice if it is a new one."""
    return _from_file(path) if path is not None else _ask("Passphrase", confirmation_prompt=new)


def has_terminal() -> bool:
    """Return whether there is a terminal to ask on; stdin may be something else."""
    if sys.stdin.isatty():
        return True
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True


def _ask(question: str, *, confirmation_prompt: bool = False) -> str:
    """Ask on the terminal; raise UsageError if there is none."""
    if not has_terminal():
        option = f"--{question.lower()}-file"
        raise UsageError(
            f"no terminal to ask for the {question.lower()}",
            hint=f"Give its file with {option} FILE, or {option} - for stdin",
        )
    return str(click.prompt(question, hide_input=True, confirmation_prompt=confirmation_prompt, err=True))


def _from_file(name: str) -> str:
    from mqttkit.files import read_secret_line

    if name.startswith(DESCRIPTORS):  # the pipe of a process substitution: --password-file <(pass show broker)
        with Path(name).open(encoding="utf-8") as pipe:
            line = pipe.readline().rstrip("\r\n")
    elif name != "-":
        return read_secret_line(Path(name))
    else:
        line = sys.stdin.readline().rstrip("\r\n")
    if not line:
        raise UsageError(f"{'stdin' if name == '-' else name} is empty: its first line must be the password")
    return line


def say(text: str) -> None:
    """Print a note on stderr."""
    click.echo(text, err=True)
