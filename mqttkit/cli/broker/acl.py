"""`mqttkit broker acl …`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from mqttkit.cli.broker.accounts import (
    change_accounts,
    known_password,
    password_file_option,
    read_accounts,
    say,
    user_argument,
)
from mqttkit.cli.broker.options import json_option, name_option, named_broker
from mqttkit.cli.options.help import CommandGroup
from mqttkit.errors import UsageError

GRANTS = click.Choice(("read", "write", "readwrite", "deny"))
ACTIONS = click.Choice(("read", "write", "subscribe"))


@click.group("acl", cls=CommandGroup)
def acl_group() -> None:
    """Grant, revoke, list and check what users may read and write. A running broker applies each change."""


@acl_group.command("grant", short_help="Let a user read or write topics.")
@user_argument
@click.argument("access", type=GRANTS)
@click.argument("topic_filter", metavar="FILTER")
@name_option
def acl_grant(user: str, access: str, topic_filter: str, name: str) -> None:
    """Let a user read or write the topics that FILTER matches; deny overrides every grant.

    \b
    mqttkit broker acl grant dashboard read 'sensors/#'
    """
    from mqttkit.broker.accounts.acl import Access

    change_accounts(name, lambda files: files.grant(user, Access(access), topic_filter))
    say(f"user {user}: {access} {topic_filter}")


@acl_group.command("revoke", short_help="Remove a user's rights on a filter.")
@user_argument
@click.argument("words", metavar="[ACCESS] FILTER", nargs=-1, required=True)
@name_option
def acl_revoke(user: str, words: tuple[str, ...], name: str) -> None:
    """Remove the rights granted on exactly FILTER: one access, or all of them.

    \b
    mqttkit broker acl revoke dashboard read 'sensors/#'
    """
    from mqttkit.broker.accounts.acl import Access

    *accesses, topic_filter = words
    if len(accesses) > 1 or any(word not in GRANTS.choices for word in accesses):
        raise UsageError(f"revoke wants NAME [{'|'.join(GRANTS.choices)}] FILTER, got {' '.join(words)!r}")
    access = accesses[0] if accesses else None
    change_accounts(name, lambda files: files.revoke(user, topic_filter, Access(access) if access else None))
    say(f"user {user}: no longer {access or 'anything on'} {topic_filter}")


@acl_group.command("list")
@click.argument("user", metavar="[NAME]", required=False)
@name_option
@json_option
def acl_list(user: str | None, name: str, as_json: bool) -> None:
    """List the rules of one user or of all users.

    \b
    mqttkit broker acl list dashboard
    """
    files = read_accounts(name)
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
@click.option(
    "--file", "path", type=click.Path(path_type=Path), metavar="FILE", help="Check this ACL file, not the broker's."
)
@name_option
@json_option
def acl_lint(path: Path | None, name: str, as_json: bool) -> int:
    """Report rules that are wrong or probably unintended. Ends with 1 if there are any.

    \b
    mqttkit broker acl lint
    mqttkit broker acl lint --file /etc/mosquitto/acl
    """
    from mqttkit.broker.accounts.acl import AclFile
    from mqttkit.broker.accounts.acl_simulator import lint
    from mqttkit.broker.accounts.roles import OWN_USERS

    if path is not None:
        findings = lint(AclFile.load(path))
    else:
        files = read_accounts(name)
        findings = lint(files.acl, users=list(files.passwords.hashes), own=OWN_USERS)
    if as_json:
        rows = [{"line": found.line, "serious": found.serious, "message": found.message} for found in findings]
        click.echo(json.dumps(rows))
    else:
        for found in findings:
            click.echo(f"{'serious' if found.serious else 'note':<8} {found.message}")
        if not findings:
            say("no problems found")
    return 1 if findings else 0


@acl_group.command("edit")
@name_option
def acl_edit(name: str) -> None:
    """Open the ACL file in $EDITOR, check it, and apply it. An invalid file changes nothing and is kept as a draft.

    \b
    mqttkit broker acl edit
    """
    from mqttkit.broker.accounts.acl import AclFile
    from mqttkit.broker.file_names import ACL_FILE
    from mqttkit.broker.live.accounts import replace_acl
    from mqttkit.files import write_secret

    broker = named_broker(name)
    draft = broker.paths.directory / "acl.draft"
    before = draft.read_bytes() if draft.exists() else broker.read_file(ACL_FILE) or b""
    text = click.edit(before.decode(errors="replace"), extension=".acl")
    if text is None:
        raise UsageError("the ACL was not changed")
    try:
        replace_acl(broker, AclFile.parse(text, where=ACL_FILE))
    except UsageError as error:
        write_secret(draft, text)
        raise UsageError(
            f"{error.message}; nothing was changed", hint=f"Correct it: mqttkit broker acl edit ({draft})"
        ) from error
    draft.unlink(missing_ok=True)
    say("the ACL is applied")


@acl_group.command("reset", short_help="Drop the lines that mosquitto rejects.")
@name_option
def acl_reset(name: str) -> None:
    """Return to a valid ACL file: drop the lines that mosquitto rejects, and print them.

    \b
    mqttkit broker acl reset
    """
    from mqttkit.broker.live.accounts import reset_acl

    dropped = reset_acl(named_broker(name))
    for line in dropped:
        click.echo(f"dropped line {line}")
    if not dropped:
        say("the ACL file is valid; nothing was changed")


@acl_group.command("check")
@user_argument
@click.argument("action", type=ACTIONS)
@click.argument("topic")
@click.option("--client-id", metavar="ID", help="Client identifier, for rules with %c.")
@click.option("--live", is_flag=True, help="Confirm it on the running broker with a test message; needs the password.")
@password_file_option
@name_option
@json_option
def acl_check(
    user: str,
    action: str,
    topic: str,
    client_id: str | None,
    live: bool,
    password_file: str | None,
    name: str,
    as_json: bool,
) -> int:
    """Check whether the broker's rules allow an action. Ends with 0 if they do, with 1 if they do not.

    mosquitto grants every subscription: `subscribe` checks whether it would deliver any message.

    \b
    mqttkit broker acl check lamp write sensors/lamp/temperature
    """
    from mqttkit.broker.live.accounts import decide, prove_live
    from mqttkit.cli.output.render import print_json

    files = read_accounts(name)
    files.known(user)
    decision = decide(files.acl, action, topic, user=user, client_id=client_id)
    if not as_json:
        click.echo(f"{'allowed' if decision.allowed else 'denied'}: {decision.reason}")
    if client_id is None and any("%c" in rule.topic for rule in files.acl.patterns):
        say("rules with %c were not checked: name the client with --client-id")
    if live:
        password = known_password(password_file)
        prove_live(named_broker(name), action, topic, user=user, password=password, decision=decision)
        if not as_json:
            click.echo("the running broker agrees")
    if as_json:
        print_json({"allowed": decision.allowed, "reason": decision.reason, "live": live})
    return 0 if decision.allowed else 1
