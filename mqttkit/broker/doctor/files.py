"""Checks of the broker's files: their contents and owners, and errors in the log."""

from __future__ import annotations

import contextlib
import difflib
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace

from mqttkit.broker.accounts.acl_simulator import lint
from mqttkit.broker.accounts.passwords import ARGON2ID, OTHER_HASHES_VERSION, PasswordFile
from mqttkit.broker.doctor.examined_broker import ExaminedBroker
from mqttkit.broker.doctor.findings import Result, failed, not_checked, passed, warned
from mqttkit.broker.file_names import CONFIGURATION_FILE, PASSWORD_FILE
from mqttkit.broker.mosquitto.configuration import CANARY
from mqttkit.broker.probe import ask, operator_login
from mqttkit.errors import BrokerUnreachable, LifecycleError, UsageError

LEAST_ITERATIONS = 1_000
MOST_ITERATIONS = 20_000
"""About 10 ms for each login, during which the broker's only thread does nothing else."""
LOG_LINES = 2_000
BEGIN, END = "mqttkit-doctor-begins", "mqttkit-doctor-ends"
TLS_ERROR = re.compile(r"OpenSSL Error|SSL routines")
ZERO_QUEUE_FIXED = (2, 0, 22)
"""First version in which `max_queued_messages 0` does not drop every message."""


def acl(examined: ExaminedBroker) -> Iterator[Result]:
    """Read the ACL file as mosquitto does, and name rules that are probably not intended."""
    try:
        accounts = examined.accounts
    except UsageError as error:
        yield failed(error.message, error.hint or f"mqttkit broker acl list{examined.name_option}")
        return
    findings = lint(accounts.acl, users=[user for user in accounts.passwords.hashes if user != CANARY])
    open_to_all = examined.broker.spec.anonymous
    for finding in findings:
        if finding.message.startswith("user 'mqttkit'"):
            continue  # the operator is meant to have every right
        serious = finding.serious and not (open_to_all and "without a user name" in finding.message)
        say = failed if serious else warned
        yield say(finding.message, f"mqttkit broker acl lint{examined.name_option}")
    yield passed(f"{len(accounts.acl.users)} users have rules, all of them valid")


def passwords(examined: ExaminedBroker) -> Iterator[Result]:
    """Read the password file strictly: mosquitto drops an invalid line silently."""
    content = examined.broker.read_file(PASSWORD_FILE)
    if content is None:
        yield failed(f"{PASSWORD_FILE} is missing", examined.restart)
        return
    try:
        users = PasswordFile.parse(content.decode(), where=PASSWORD_FILE)
    except UsageError as error:
        yield failed(error.message, error.hint)
        return
    for name, hashed in users.hashes.items():
        fix = f"mqttkit broker user passwd {name}{examined.name_option}"
        if hashed.needs_new_broker and examined.broker.version() < OTHER_HASHES_VERSION:
            yield failed(f"user {name!r} has a hash of mosquitto 2.1, which this mosquitto cannot read", fix)
        elif hashed.scheme == ARGON2ID:
            continue
        elif hashed.scheme != 7:
            yield warned(f"user {name!r} has a hash with only one round ($6$)", fix)
        elif hashed.iterations < LEAST_ITERATIONS:
            yield warned(f"user {name!r} has {hashed.iterations} iterations, fewer than {LEAST_ITERATIONS:,}", fix)
        elif hashed.iterations > MOST_ITERATIONS:
            yield warned(f"user {name!r}: {hashed.iterations:,} iterations block the broker at each login", fix)
    yield passed(f"{len(users.hashes)} users, each with one valid hash")


def owners(examined: ExaminedBroker) -> Iterator[Result]:
    """Check owner, mode and kind of each file that the broker reads."""
    facts = list(examined.broker.file_facts())
    if not facts:
        yield not_checked("this user cannot see the files")
    wrong = 0
    for fact in facts:
        fix = f"chown and chmod {'700' if fact.directory else '600'} {fact.place}"
        for problem in fact.problems():
            wrong += 1
            yield failed(f"{fact.name} {problem}", f"remove {fact.place}" if fact.link else fix)
    if facts and not wrong:
        yield passed(f"{len(facts)} files and directories belong to uid {facts[0].wanted}; no other user can open them")


def settings(examined: ExaminedBroker) -> Iterator[Result]:
    """Read mosquitto.conf: manual changes are lost at the next start, and some values are dangerous."""
    content = examined.broker.read_file(CONFIGURATION_FILE)
    if content is None:
        yield failed(f"{CONFIGURATION_FILE} is missing: a reload would fail", examined.restart)
        return
    text = content.decode(errors="replace")
    dangers = 0
    if re.search(r"^max_queued_messages 0$", text, re.M) and examined.broker.version() < ZERO_QUEUE_FIXED:
        dangers += 1
        yield failed("max_queued_messages 0 drops every message for a client that is away", examined.restart)
    if re.search(r"^allow_anonymous true$", text, re.M) and not examined.broker.spec.anonymous:
        dangers += 1
        yield failed("allow_anonymous was switched on manually", examined.restart)
    for name in ("password_file", "acl_file"):
        if not re.search(rf"^(plugin_opt_)?{name} \S", text, re.M):
            dangers += 1
            yield failed(f"{name} is missing", examined.restart)
    if not text.startswith("# Written by `mqttkit broker up`"):
        yield warned("it was not written by mqttkit: the next start replaces it", examined.restart)
        return
    changes = _changed_lines(text, examined.broker.configuration())
    for change in changes:
        yield warned(f"changed by hand: {change}; the next start undoes that", examined.restart)
    if not dangers and not changes:
        yield passed("every line is as mqttkit wrote it")


def _changed_lines(text: str, wanted: str) -> list[str]:
    """Return each line that was added or removed, with its number."""
    before, after = wanted.splitlines(), text.splitlines()
    found = []
    for kind, first, last, begin, end in difflib.SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        if kind != "equal":
            found += [f"line {begin + 1}: {line!r} is missing" for line in before[first:last]]
            found += [f"line {number + 1}: {after[number]!r}" for number in range(begin, end)]
    return found


@contextlib.contextmanager
def marked_in_log(examined: ExaminedBroker) -> Iterator[None]:
    """Log in before and after the examination with a client identifier that `log_errors` finds in the log.

    The checks of TLS make the broker log errors.
    """
    _mark(examined, BEGIN)
    try:
        yield
    finally:
        _mark(examined, END)


def _mark(examined: ExaminedBroker, client_id: str) -> None:
    if examined.up:
        with contextlib.suppress(BrokerUnreachable, LifecycleError):
            ask(replace(operator_login(examined.profile), client_id=client_id))


def without_own_errors(lines: Iterable[str]) -> Iterator[str]:
    """Yield the lines of a log without the TLS errors that an examination caused."""
    examining = False
    for line in lines:
        if f" as {BEGIN} " in line or f" as {END} " in line:
            examining = BEGIN in line
        if not (examining and TLS_ERROR.search(line)):
            yield line


def log_errors(examined: ExaminedBroker) -> Iterator[Result]:
    """Search the last lines of the log for errors; the reload caused those after the last reload."""
    lines = list(without_own_errors(examined.broker.log_lines(tail=LOG_LINES)))
    if not lines:
        yield not_checked("the broker has no log yet")
        return
    start = max(
        (index for index, line in enumerate(lines) if re.search(r"mosquitto version .* starting", line)), default=0
    )
    lines = lines[start:]
    reload = max((index for index, line in enumerate(lines) if "Reloading config" in line), default=None)
    errors = [(index, line) for index, line in enumerate(lines) if re.search(r"\bError\b", line)]
    fix = f"mqttkit broker logs{examined.name_option}"
    after = [line for index, line in errors if reload is not None and index > reload]
    if after:
        yield failed(f"after the last reload: {after[-1]}", fix)
    elif errors:
        yield warned(f"{len(errors)} errors since the start, the last: {errors[-1][1]}", fix)
    else:
        yield passed(f"no error in the last {len(lines)} lines")
