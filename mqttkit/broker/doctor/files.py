"""Checks of the broker's files: what they say, whose they are, what the log tells of them."""

from __future__ import annotations

import re
from collections.abc import Iterator

from mqttkit.broker.accounts.acl_simulator import lint
from mqttkit.broker.accounts.passwords import PasswordFile
from mqttkit.broker.accounts.roles import PASSWORDS_NAME
from mqttkit.broker.doctor.examined_broker import ExaminedBroker
from mqttkit.broker.doctor.findings import Result, failed, not_checked, passed, warned
from mqttkit.broker.mosquitto.configuration import CANARY
from mqttkit.errors import UsageError

LEAST_ITERATIONS = 1_000
MOST_ITERATIONS = 20_000
"""About 10 ms a login, in which the broker's one thread does nothing else."""
LOG_LINES = 2_000
CONF_NAME = "config/mosquitto.conf"
ZERO_QUEUE_FIXED = (2, 0, 22)
"""First version in which `max_queued_messages 0` does not drop every message."""


def acl(examined: ExaminedBroker) -> Iterator[Result]:
    """Read the ACL file as mosquitto does, and name what is hardly meant."""
    try:
        accounts = examined.accounts
    except UsageError as error:
        yield failed(error.message, error.hint or f"mqttkit broker acl list{examined.spec_name}")
        return
    findings = lint(accounts.acl, users=[user for user in accounts.passwords.hashes if user != CANARY])
    open_to_all = examined.broker.spec.anonymous
    for finding in findings:
        if finding.message.startswith("user 'mqttkit'"):
            continue  # the operator may do everything: that is what it is for
        serious = finding.serious and not (open_to_all and "without a user name" in finding.message)
        say = failed if serious else warned
        yield say(finding.message, f"mqttkit broker acl lint{examined.spec_name}")
    yield passed(f"{len(accounts.acl.users)} users have rules, all of them valid")


def passwords(examined: ExaminedBroker) -> Iterator[Result]:
    """Read the password file strictly: mosquitto drops a malformed line without a word."""
    content = examined.broker.read_file(PASSWORDS_NAME)
    if content is None:
        yield failed(f"{PASSWORDS_NAME} is missing", examined.restart)
        return
    try:
        users = PasswordFile.parse(content.decode(), where=PASSWORDS_NAME)
    except UsageError as error:
        yield failed(error.message, error.hint)
        return
    for name, hashed in users.hashes.items():
        fix = f"mqttkit broker user passwd {name}{examined.spec_name}"
        if hashed.scheme != 7:
            yield warned(f"user {name!r} has a hash of one round only ($6$)", fix)
        elif hashed.iterations < LEAST_ITERATIONS:
            yield warned(f"user {name!r} has {hashed.iterations} iterations, fewer than {LEAST_ITERATIONS:,}", fix)
        elif hashed.iterations > MOST_ITERATIONS:
            yield warned(f"user {name!r}: {hashed.iterations:,} iterations stop the broker at each login", fix)
    yield passed(f"{len(users.hashes)} users, each with a valid hash, none twice")


def owners(examined: ExaminedBroker) -> Iterator[Result]:
    """Look at owner, mode and kind of each file that the broker reads."""
    facts = list(examined.broker.file_facts())
    if not facts:
        yield not_checked("no files are seen")
    wrong = 0
    for fact in facts:
        fix = f"chown and chmod {'700' if fact.directory else '600'} {fact.place}"
        for trouble in fact.troubles():
            wrong += 1
            yield failed(f"{fact.name} {trouble}", f"remove {fact.place}" if fact.link else fix)
    if facts and not wrong:
        yield passed(f"{len(facts)} files and directories belong to uid {facts[0].wanted}, closed to all others")


def settings(examined: ExaminedBroker) -> Iterator[Result]:
    """Read mosquitto.conf: changes by hand are lost at the next start, and some values bite."""
    content = examined.broker.read_file(CONF_NAME)
    if content is None:
        yield failed(f"{CONF_NAME} is missing: a reload would fail", examined.restart)
        return
    text = content.decode(errors="replace")
    bites = 0
    if re.search(r"^max_queued_messages 0$", text, re.M) and examined.broker.version() < ZERO_QUEUE_FIXED:
        bites += 1
        yield failed("max_queued_messages 0 drops every message for a client that is away", examined.restart)
    if re.search(r"^allow_anonymous true$", text, re.M) and not examined.broker.spec.anonymous:
        bites += 1
        yield failed("allow_anonymous was switched on by hand", examined.restart)
    for name in ("password_file", "acl_file"):
        if not re.search(rf"^{name} \S", text, re.M):
            bites += 1
            yield failed(f"there is no {name}", examined.restart)
    if not text.startswith("# Written by `mqttkit broker up`"):
        yield warned("it was not written by mqttkit: the next start replaces it", examined.restart)
    elif not bites:
        yield passed("anonymous, users, ACL and queues are set as mqttkit sets them")


def log_errors(examined: ExaminedBroker) -> Iterator[Result]:
    """Search the log's last lines for errors; those after the last reload count as the reload's."""
    lines = list(examined.broker.log_lines(tail=LOG_LINES))
    if not lines:
        yield not_checked("there is no log yet")
        return
    start = max(
        (index for index, line in enumerate(lines) if re.search(r"mosquitto version .* starting", line)), default=0
    )
    lines = lines[start:]
    reload = max((index for index, line in enumerate(lines) if "Reloading config" in line), default=None)
    errors = [(index, line) for index, line in enumerate(lines) if re.search(r"\bError\b", line)]
    fix = f"mqttkit broker logs{examined.spec_name}"
    after = [line for index, line in errors if reload is not None and index > reload]
    if after:
        yield failed(f"after the last reload: {after[-1]}", fix)
    elif errors:
        yield warned(f"{len(errors)} errors since the start, the last: {errors[-1][1]}", fix)
    else:
        yield passed(f"no error in the last {len(lines)} lines")


def _last(lines: list[str], pattern: str) -> int | None:
    """Return the index of the last line that holds the pattern, or None."""
    return max((index for index, line in enumerate(lines) if re.search(pattern, line)), default=None)
