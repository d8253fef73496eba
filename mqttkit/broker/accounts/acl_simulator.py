"""A simulator of mosquitto 2.0's ACL rules, and a lint of ACL files. Pure.

mosquitto checks each publish (write) and each delivery (read). It grants every subscription, and then delivers
only the messages that the client may read. Denials go before grants, and the user's rules before patterns.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from mqttkit.broker.accounts.acl import Access, AclFile, AclRule
from mqttkit.topics import check_topic_filter, check_topic_name, matches, split_share

BRIDGE_STATE = "$SYS/broker/connection/+/state"
"""The only $SYS topic that mosquitto lets clients write."""
BARRED_BY_PATTERNS = "because the file has patterns, mosquitto denies everything to names with + or #"
SHARE_IGNORED = "never matches: of a shared subscription mosquitto checks only the filter after the group"


@dataclass(frozen=True)
class AclDecision:
    """The broker's decision on an action."""

    allowed: bool
    """Whether the broker allows it; for a subscription, whether it could deliver at least one topic."""
    reason: str
    """The reason, in one sentence."""
    rule: AclRule | None = None
    """The rule that decided."""
    complete: bool = True
    """For an allowed subscription: whether the client may read every topic that matches."""


@dataclass(frozen=True)
class LintIssue:
    """A mistake in an ACL file, or a rule that is probably not intended."""

    message: str
    """Its description."""
    line: int = 0
    """Line number; 0 if it concerns no line."""
    serious: bool = False
    """Whether it grants or denies more than it seems to."""


def check_access(
    acl: AclFile, access: Access, topic: str, *, user: str | None, client_id: str | None = None
) -> AclDecision:
    """Return whether the broker lets this client READ or WRITE a message on the topic name.

    `user` None is a client without a user name. Raises TopicError if `topic` is not a topic name.
    """
    check_topic_name(topic)
    if topic.startswith("$share"):
        return AclDecision(False, "no message can have a topic that begins with $share")
    if access is Access.WRITE and topic.startswith("$SYS") and not matches(BRIDGE_STATE, topic):
        return AclDecision(False, "mosquitto lets no client write $SYS")
    for rules in _stages(acl, user, client_id):
        if rules is None:
            return AclDecision(False, BARRED_BY_PATTERNS)
        for rule in _denials_first(rules):
            if _matches(rule.topic, topic) and (rule.access is Access.DENY or rule.access.allows(access)):
                return AclDecision(rule.access is not Access.DENY, _named(rule), rule)
    return AclDecision(False, "no rule allows it")


def check_subscription(
    acl: AclFile, topic_filter: str, *, user: str | None, client_id: str | None = None
) -> AclDecision:
    """Return whether a subscription would deliver anything.

    Raises TopicError if `topic_filter` is not a topic filter.
    """
    wanted = split_share(check_topic_filter(topic_filter))[1]
    partly: AclRule | None = None
    denials: list[AclRule] = []
    for rules in _stages(acl, user, client_id):
        if rules is None:
            break
        denials += [rule for rule in rules if rule.access is Access.DENY and intersection(rule.topic, wanted)]
        for rule in rules:
            shared = intersection(rule.topic, wanted) if rule.access.allows(Access.READ) else None
            if shared is None or any(covers(denial.topic, shared) for denial in denials):
                continue
            if not denials and covers(rule.topic, wanted):
                return AclDecision(True, f"every message: {_named(rule)}", rule)
            partly = partly or rule
    if partly is None:
        return AclDecision(
            False, "the broker grants it but delivers nothing: no rule allows reading a topic that matches"
        )
    return AclDecision(True, f"the broker delivers only a part of it: {_named(partly)}", partly, complete=False)


def lint(acl: AclFile, *, users: Collection[str] | None = None, own: Collection[str] = ()) -> list[LintIssue]:
    """Return mistakes, and rules that are probably not intended.

    `users` are the users of the password file; the rules of the users in `own` are not examined.
    """
    issues = [*_lint_anonymous(acl), *_lint_patterns(acl)]
    for user, rules in acl.users.items():
        if user in own:
            continue
        issues += _lint_rules(user, rules)
        if acl.patterns and ("+" in user or "#" in user):
            issues.append(
                LintIssue(
                    f"user {user!r} may do nothing: {BARRED_BY_PATTERNS}",
                    serious=True,
                )
            )
    if users is not None:
        issues += _lint_users(acl, users)
    return sorted(issues, key=lambda issue: issue.line)


def intersection(first: str, second: str) -> str | None:
    """Return the filter of the topic names that match both filters, or None if there are none."""
    left, right = first.split("/"), second.split("/")
    if _begins_with_dollar(left) is not _begins_with_dollar(right):
        return None
    shared: list[str] = []
    for index, (mine, yours) in enumerate(itertools.zip_longest(left, right)):
        if mine == "#" or yours == "#":
            rest = right[index:] if mine == "#" else left[index:]
            return "/".join([*shared, *rest])
        if mine is None or yours is None:
            return None
        if mine != yours and "+" not in (mine, yours):
            return None
        shared.append(yours if mine == "+" else mine)
    return "/".join(shared)


def covers(wide: str, narrow: str) -> bool:
    """Return whether every topic name that matches `narrow` also matches `wide`."""
    left, right = wide.split("/"), narrow.split("/")
    if _begins_with_dollar(left) is not _begins_with_dollar(right):
        return False
    for index, level in enumerate(left):
        if level == "#":
            return True
        if index >= len(right) or right[index] == "#" or level not in ("+", right[index]):
            return False
    return len(left) == len(right)


def _begins_with_dollar(levels: list[str]) -> bool:
    return levels[0].startswith("$")


def _stages(acl: AclFile, user: str | None, client_id: str | None) -> Iterator[list[AclRule] | None]:
    """Yield the rules of each stage in mosquitto's order; None if the client's name excludes it from the patterns."""
    yield list(acl.anonymous if user is None else acl.users.get(user, ()))
    if not acl.patterns:
        return
    if any(character in (name or "") for name in (user, client_id) for character in "+#"):
        yield None
    else:
        yield [
            AclRule(rule.access, _filled(rule.topic, user, client_id), rule.line)
            for rule in acl.patterns
            if not ("%u" in rule.topic and user is None) and not ("%c" in rule.topic and client_id is None)
        ]


def _filled(topic: str, user: str | None, client_id: str | None) -> str:
    """Fill in %u and %c in one pass, so that a name which contains them stays as it is."""
    parts, rest = "", topic
    while "%" in rest:
        before, _, rest = rest.partition("%")
        value = {"u": user, "c": client_id}.get(rest[:1])
        parts += before + ("%" if value is None else value)
        rest = rest if value is None else rest[1:]
    return parts + rest


def _matches(topic_filter: str, name: str) -> bool:
    return not topic_filter.startswith("$share") and matches(topic_filter, name)


def _denials_first(rules: list[AclRule]) -> list[AclRule]:
    return sorted(rules, key=lambda rule: rule.access is not Access.DENY)


def _named(rule: AclRule) -> str:
    line = f" (line {rule.line})" if rule.line else ""
    return f"rule '{rule.access.value} {rule.topic}'{line}"


def _lint_anonymous(acl: AclFile) -> Iterator[LintIssue]:
    for rule in acl.anonymous:
        yield LintIssue(
            f"{_named(rule)} is before the first 'user' line: it applies only to clients without a user name",
            rule.line,
            serious=rule.access is not Access.DENY,
        )
    yield from _lint_rules(None, acl.anonymous)


def _lint_patterns(acl: AclFile) -> Iterator[LintIssue]:
    for rule in acl.patterns:
        if "%u" not in rule.topic and "%c" not in rule.topic:
            yield LintIssue(
                f"pattern {_named(rule)} has neither %u nor %c: it applies to every client",
                rule.line,
                serious=rule.access is not Access.DENY,
            )
        elif "%c" in rule.topic:
            yield LintIssue(
                f"pattern {_named(rule)}: any user may choose any client identifier, so %c protects nothing",
                rule.line,
                serious=True,
            )


def _lint_rules(user: str | None, rules: tuple[AclRule, ...]) -> Iterator[LintIssue]:
    whose = "clients without a user name" if user is None else f"user {user!r}"
    seen: set[AclRule] = set()
    for rule in rules:
        if "%u" in rule.topic or "%c" in rule.topic:
            yield LintIssue(f"{_named(rule)}: mosquitto fills in %u and %c only in 'pattern' lines", rule.line)
        if rule.topic.startswith("$share"):
            yield LintIssue(
                f"{_named(rule)} {SHARE_IGNORED}",
                rule.line,
            )
        if rule.topic in ("read", "write", "readwrite", "deny"):
            yield LintIssue(f"{_named(rule)}: the topic is the name of an access; is the filter missing?", rule.line)
        if rule.topic in ("#", "+/#") and rule.access.allows(Access.WRITE):
            yield LintIssue(f"{whose} may write every topic: {_named(rule)}", rule.line)
        if rule.topic.startswith("$SYS") and rule.access.allows(Access.WRITE) and rule.topic != BRIDGE_STATE:
            yield LintIssue(f"{_named(rule)}: mosquitto lets no client write $SYS", rule.line)
        if rule in seen:
            yield LintIssue(f"{_named(rule)} is a duplicate for {whose}", rule.line)
        seen.add(rule)
        yield from _lint_denied(rule, rules)


def _lint_denied(rule: AclRule, rules: tuple[AclRule, ...]) -> Iterator[LintIssue]:
    if rule.access is Access.DENY:
        return
    for denial in rules:
        if denial.access is Access.DENY and covers(denial.topic, rule.topic):
            yield LintIssue(f"{_named(rule)} has no effect: {_named(denial)} comes first", rule.line)


def _lint_users(acl: AclFile, users: Collection[str]) -> Iterator[LintIssue]:
    for user in acl.users:
        if user not in users:
            yield LintIssue(f"user {user!r} has rules but no password: no client can log in as this user")
    for user in users:
        if not acl.users.get(user) and not acl.patterns:
            yield LintIssue(f"user {user!r} has no rule: it may do nothing")
