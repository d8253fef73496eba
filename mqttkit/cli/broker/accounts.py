"""`mqttkit broker user …` and `mqttkit broker acl …`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from mqttkit.broker.accounts.passwords import DEFAULT_ITERATIONS, MAX_ITERATIONS
from mqttkit.cli.broker.life import json_option, name_option
from mqttkit.cli.options import set_up_logging
from mqttkit.errors import UsageError

ROLES = ("device", "service", "monitor", "bridge")
GRANTS = click.Choice(("read", "write", "readwrite", "deny"))
ACTIONS = click.Choice(("read", "write", "subscribe"))
user_argument = click.argument("user", metavar="NAME")
password_file_option = click.option(
    "--password-file", metavar="FILE", help="Take the password from the first line of FILE; - is stdin."
)
weak_option = click.option("--weak", is_flag=True, help="Take a password of fewer than 16 characters.")
generate_option = click.option("--generate", is_flag=True, help="Make a password and print it alone on stdout.")
iterations_option = click.option(
    "--iterations",
    type=click.IntRange(1, MAX_ITERATIONS),
    default=DEFAULT_ITERATIONS,
    show_default=True,
    help="Rounds of the hash; 1,000 block the broker for 0.5 ms a login.",
)


@click.group("user")
def user_group() -> None:
    """Add, change, remove and list the users of a broker; it takes each change while it runs."""


@user_group.command("add")
@user_argument
@click.option("--role", type=click.Choice(ROLES), help="Give it the rights of a role.")
@generate_option
@password_file_option
@weak_option
@iterations_option
@name_option
def user_add(user: str, role: str | None, name: str, iterations: int, **given: Any) -> None:
    """Add a user. Without --generate or --password-file the password is asked for."""
    password = _new_password(**given)
    live = _change(name, lambda files: files.add(user, password, role=role, iterations=iterations))
    _said(f"user {user} may log in" if live else f"user {user} is added; the broker does not run")
    if role is None:
        _said(f"it may do nothing yet: mqttkit broker acl grant {user} read FILTER")
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
    """Give a user another password; its clients are disconnected."""
    password = _new_password(**given)
    _change(name, lambda files: files.set_password(user, password, iterations=iterations))
    _said(f"user {user} has a new password")
    if given["generate"]:
        click.echo(password)


@user_group.command("remove")
@user_argument
@name_option
def user_remove(user: str, name: str) -> None:
    """Remove a user and its rules; its clients are disconnected."""
    _change(name, lambda files: files.remove(user))
    _said(f"user {user} is gone")


@user_group.command("list")
@name_option
@json_option
def user_list(name: str, as_json: bool) -> None:
    """List the users."""
    from mqttkit.broker.accounts.roles import OWN_USERS

    files = _read(name)
    rows = [
        {
            "user": user,
            "scheme": f"${hashed.scheme}$",
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


@click.group("acl")
def acl_group() -> None:
    """Grant, revoke, list and check what users may read and write; the broker takes it while it runs."""


@acl_group.command("grant", short_help="Let a user read, write or both what FILTER matches.")
@user_argument
@click.argument("access", type=GRANTS)
@click.argument("topic_filter", metavar="FILTER")
@name_option
def acl_grant(user: str, access: str, topic_filter: str, name: str) -> None:
    """Let a user read, write or both what FILTER matches; deny goes before every grant."""
    from mqttkit.broker.accounts.acl import Access

    _change(name, lambda files: files.grant(user, Access(access), topic_filter))
    _said(f"user {user}: {access} {topic_filter}")


@acl_group.command("revoke", short_help="Take back what was granted on FILTER.")
@user_argument
@click.argument("words", metavar="[ACCESS] FILTER", nargs=-1, required=True)
@name_option
def acl_revoke(user: str, words: tuple[str, ...], name: str) -> None:
    """Take back what was granted on exactly FILTER; without an access, all of it."""
    from mqttkit.broker.accounts.acl import Access

    *accesses, topic_filter = words
    if len(accesses) > 1 or any(word not in GRANTS.choices for word in accesses):
        raise UsageError(f"revoke wants NAME [{'|'.join(GRANTS.choices)}] FILTER, got {' '.join(words)!r}")
    access = accesses[0] if accesses else None
    _change(name, lambda files: files.revoke(user, topic_filter, Access(access) if access else None))
    _said(f"user {user}: no longer {access or 'anything on'} {topic_filter}")


@acl_group.command("list")
@click.argument("user", metavar="[NAME]", required=False)
@name_option
@json_option
def acl_list(user: str | None, name: str, as_json: bool) -> None:
    """List the rules, of one user or of all."""
    files = _read(name)
    if user is not None:
        files.known(user)
    kinds = {None: files.acl.anonymous, **files.acl.users, "*": files.acl.patterns}
    rows = [
        {"user": whose, "access": rule.access.value, "topic": rule.topic}
        for whose, rules in kinds.items()
        for rule in rules
        if user in (None, whose)
    ]
    for row in rows if not as_json else ():
        whose = {None: "(anonymous)", "*": "(pattern)"}.get(row["user"], row["user"])
        click.echo(f"{whose:<24} {row['access']:<9} {row['topic']}")
    if as_json:
        click.echo(json.dumps(rows))


@acl_group.command("lint")
@click.option("--file", "path", type=click.Path(path_type=Path), help="Look at this ACL file, not the broker's.")
@name_option
@json_option
def acl_lint(path: Path | None, name: str, as_json: bool) -> int:
    """Name what is wrong with the rules, or hardly meant. Ends with 1 where anything was found."""
    from mqttkit.broker.accounts.acl import AclFile
    from mqttkit.broker.accounts.acl_simulator import lint
    from mqttkit.broker.accounts.roles import OWN_USERS

    if path is not None:
        findings = lint(AclFile.load(path))
    else:
        files = _read(name)
        findings = lint(files.acl, users=list(files.passwords.hashes), own=OWN_USERS)
    if as_json:
        rows = [{"line": found.line, "serious": found.serious, "message": found.message} for found in findings]
        click.echo(json.dumps(rows))
    else:
        for found in findings:
            click.echo(f"{'serious' if found.serious else 'note':<8} {found.message}")
        if not findings:
            _said("nothing is wrong with the rules")
    return 1 if findings else 0


@acl_group.command("check")
@user_argument
@click.argument("action", type=ACTIONS)
@click.argument("topic")
@click.option("--client-id", help="Client identifier, for rules with %c.")
@click.option("--live", is_flag=True, help="Prove it against the broker with a canary message; needs the password.")
@password_file_option
@name_option
def acl_check(user: str, action: str, topic: str, client_id: str | None, live: bool, **given: Any) -> int:
    """Tell what the broker's rules let a user do. Ends with 0 where it is allowed, with 1 where it is denied.

    mosquitto grants every subscription: `subscribe` tells whether it would deliver anything.
    """
    from mqttkit.broker.accounts.live_changes import decide, prove_live

    files = _read(given["name"])
    files.known(user)
    decision = decide(files.acl, action, topic, user=user, client_id=client_id)
    click.echo(f"{'allowed' if decision.allowed else 'denied'}: {decision.reason}")
    if client_id is None and any("%c" in rule.topic for rule in files.acl.patterns):
        _said("patterns with %c were left out: name the client with --client-id")
    if live:
        password = _known_password(given["password_file"])
        prove_live(_broker(given["name"]), action, topic, user=user, password=password, decision=decision)
        click.echo("the running broker does the same")
    return 0 if decision.allowed else 1


def _broker(name: str) -> Any:
    from mqttkit.broker import existing_broker

    set_up_logging()
    return existing_broker(name)


def _read(name: str) -> Any:
    from mqttkit.broker.accounts.live_changes import read_accounts

    return read_accounts(_broker(name))


def _change(name: str, edit: Any) -> bool:
    from mqttkit.broker.accounts.live_changes import change_accounts

    return change_accounts(_broker(name), edit)


def _new_password(*, generate: bool, password_file: str | None, weak: bool) -> str:
    """Return the password that the options say; raise UsageError for a weak one."""
    from mqttkit.broker.accounts.passwords import check_strength, generate_password

    if generate and password_file is not None:
        raise UsageError("--generate and --password-file exclude each other")
    if generate:
        return generate_password()
    if password_file is not None:
        password = _from_file(password_file)
    else:
        password = click.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
    if not weak:
        check_strength(password)
    return password


def _known_password(password_file: str | None) -> str:
    if password_file is not None:
        return _from_file(password_file)
    return str(click.prompt("Password", hide_input=True, err=True))


def _from_file(name: str) -> str:
    from mqttkit.files import read_secret_line

    if name != "-":
        return read_secret_line(Path(name))
    line = sys.stdin.readline().rstrip("\r\n")
    if not line:
        raise UsageError("stdin holds no password")
    return line


def _said(text: str) -> None:
    click.echo(text, err=True)
