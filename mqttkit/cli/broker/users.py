"""`mqttkit broker user …`."""

from __future__ import annotations

import json
from typing import Any

import click

from mqttkit.broker.accounts.passwords import DEFAULT_ITERATIONS, MAX_ITERATIONS
from mqttkit.cli.broker.accounts import (
    change_accounts,
    new_password,
    password_file_option,
    read_accounts,
    say,
    user_argument,
)
from mqttkit.cli.broker.options import json_option, name_option, named_broker
from mqttkit.cli.options.help import CommandGroup
from mqttkit.cli.options.numbers import Number

ROLES = (
    *("device", "metrics-device", "service", "monitor", "bridge"),
    *("controller", "controller-local", "controller-regional", "controller-global"),
)
weak_option = click.option("--weak", is_flag=True, help="Accept a password that is short or easy to guess.")
generate_option = click.option("--generate", is_flag=True, help="Generate a password and print it on stdout.")
iterations_option = click.option(
    "--iterations",
    type=Number("N", low=1, high=MAX_ITERATIONS, whole=True),
    default=DEFAULT_ITERATIONS,
    show_default=True,
    help="Rounds of the hash; 1,000 rounds block the broker for 0.5 ms at each login.",
)


@click.group("user", cls=CommandGroup)
def user_group() -> None:
    """Add, change, remove and list the users of a broker. A running broker applies each change."""


@user_group.command("add")
@user_argument
@click.option("--role", type=click.Choice(ROLES), help="Rights of the user.")
@generate_option
@password_file_option
@weak_option
@iterations_option
@name_option
def user_add(user: str, role: str | None, name: str, iterations: int, **given: Any) -> None:
    """Add a user. Asks for the password without --generate and --password-file.

    \b
    mqttkit broker user add lamp --role device --generate
    """
    password = new_password(**given)
    live = change_accounts(name, lambda files: files.add(user, password, role=role, iterations=iterations))
    say(f"user {user} may log in" if live else f"user {user} added; the broker is not running")
    if role is None:
        say(f"it has no rights yet: mqttkit broker acl grant {user} read FILTER")
    if given["generate"]:
        click.echo(password)


@user_group.command("passwd")
@user_argument
@generate_option
@password_file_option
@weak_option
@iterations_option
@name_option
def user_passwd(user: str, name: str, iterations: int, **given: Any) -> None:
    """Give a user another password; its clients are disconnected. `mqttkit` is the operator.

    \b
    mqttkit broker user passwd lamp --generate
    """
    from mqttkit.broker.live.accounts import set_operator_password
    from mqttkit.broker.mosquitto.configuration import OPERATOR

    password = new_password(**given)
    if user == OPERATOR:
        set_operator_password(named_broker(name), password, iterations=iterations)
        say(f"the operator {user} has a new password; it is in the broker's profile")
        return
    change_accounts(name, lambda files: files.set_password(user, password, iterations=iterations))
    say(f"user {user} has a new password")
    if given["generate"]:
        click.echo(password)


@user_group.command("remove")
@user_argument
@name_option
def user_remove(user: str, name: str) -> None:
    """Remove a user and its rules; its clients are disconnected.

    \b
    mqttkit broker user remove lamp
    """
    change_accounts(name, lambda files: files.remove(user))
    say(f"user {user} removed")


@user_group.command("list")
@name_option
@json_option
def user_list(name: str, as_json: bool) -> None:
    """List the users.

    \b
    mqttkit broker user list
    """
    from mqttkit.broker.accounts.roles import OWN_USERS

    files = read_accounts(name)
    rows = [
        {
            "user": user,
            "scheme": hashed.name,
            "iterations": hashed.iterations,
            "rules": len(files.acl.users.get(user, ())),
            "own": user in OWN_USERS,
        }
        for user, hashed in files.passwords.hashes.items()
    ]
    if as_json:
        click.echo(json.dumps(rows))
        return
    for row in rows:
        note = "  (mqttkit's own)" if row["own"] else ""
        click.echo(f"{row['user']:<24} {row['scheme']} {row['iterations']:>7} rounds  {row['rules']} rules{note}")
