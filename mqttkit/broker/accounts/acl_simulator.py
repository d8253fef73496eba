"""A simulator of mosquitto 2.0's ACL rules, and a lint of ACL files. Pure.

mosquitto asks at each publish (write) and at each delivery (read); a subscription itself is always granted
and then delivers only what may be read. Denials come first, then any rule that allows; patterns come after
the user's own rules.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from mqttkit.broker.accounts.acl import Access, AclFile, Rule
from mqttkit.topics import check_topic_filter, check_topic_name, matches, split_share

BRIDGE_STATE = "$SYS/broker/connection/+/state"
"""The only $SYS topic that mosquitto lets clients write."""


@dataclass(frozen=True)
class Decision:
    """What the broker would do."""

    allowed: bool
    """True where it would happen; of a subscription, where at least one topic could be delivered."""
    reason: str
    """Why, in one sentence."""
    rule: Rule | None = None
    """The rule that decided."""
    complete: bool = True
    """Of an allowed subscription: every topic that matches may be read."""


@dataclass(frozen=True)
class LintIssue:
    """Something in an ACL file that is wrong or is hardly meant."""

    message: str
    """What it is."""
    line: int = 0
    """Line number; 0 where it has none."""
    serious: bool = False
    """True where it opens or closes more than it seems to."""


def check_access(
    acl: AclFile, access: Access, topic: str, *, user: str | None, client_id: str | None = None
) -> Decision:
    """Tell whether the broker lets this client READ or WRITE a message on the topic name.

    `user` None is a client without a user name. Raises TopicError where `topic` is no topic name.
    """
    check_topic_name(topic)
    if topic.startswith("$share"):
        return Decision(False, "no message goes to or comes from a topic that begins with $share")
    if access is Access.WRITE and topic.startswith("$SYS") and not matches(BRIDGE_STATE, topic):
        return Decision(False, "mosquitto lets no client write $SYS")
    for rules in _stages(acl, user, client_id):
        if rules is None:
            return Decision(False, "patterns in the file bar user and client names with + or #")
        for rule in _denials_first(rules):
            if _matches(rule.topic, topic) and (rule.access is Access.DENY or rule.access.allows(access)):
                return Decision(rule.access is not Access.DENY, _named(rule), rule)
    return Decision(False, "no rule allows it")


def check_subscription(acl: AclFile, topic_filter: str, *, user: str | None, client_id: str | None = None) -> Decision:
    """Tell whether a subscription would deliver anything.

    Raises TopicError where it is no topic filter.
    """
    wanted = split_share(check_topic_filter(topic_filter))[1]
    partly: Rule | None = None
    denials: list[Rule] = []
    for rules in _stages(acl, user, client_id):
        if rules is None:
            break
        denials += [rule for rule in rules if rule.access is Access.DENY and intersection(rule.topic, wanted)]
        for rule in rules:
            shared = intersection(rule.topic, wanted) if rule.access.allows(Access.READ) else None
            if shared is None or any(covers(denial.topic, shared) for denial in denials):
                continue
            if not denials and covers(rule.topic, wanted):
                return Decision(True, f"every message: {_named(rule)}", rule)
            partly = partly or rule
    if partly is None:
        return Decision(False, "the broker grants it, and delivers nothing: no rule lets a matching topic be read")
    return Decision(True, f"only a part of it is delivered: {_named(partly)}", partly, complete=False)


def lint(acl: AclFile, *, users: Collection[str] | None = None, own: Collection[str] = ()) -> list[LintIssue]:
    """Return what is wrong or hardly meant.

    `users` are those of the password file, `own` those whose rules are known to be meant.
    """
    issues = [*_lint_anonymous(acl), *_lint_patterns(acl)]
    for user, rules in acl.users.items():
        if user in own:
            continue
        issues += _lint_rules(user, rules)
        if acl.patterns and ("+" in user or "#" in user):
            issues.append(LintIssue(f"user {user!r} may do nothing: patterns bar names with + or #", serious=True))
    if users is not None:
        issues += _lint_users(acl, users)
    return sorted(issues, key=lambda issue: issue.line)


def intersection(first: str, second: str) -> str | None:
    """Return the filter of the topic names that match both filters, or None where there are none."""
    left, right = first.split("/"), second.split("/")
    if _dollar(left) is not _dollar(right):
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
    """Tell whether every topic name that matches `narrow` matches `wide`."""
    left, right = wide.split("/"), narrow.split("/")
    if _dollar(left) is not _dollar(right):
        return False
    for index, level in enumerate(left):
        if level == "#":
            return True
        if index >= len(right) or right[index] == "#" or level not in ("+", right[index]):
            return False
    return len(left) == len(right)


def _dollar(levels: list[str]) -> bool:
    return levels[0].startswith("$")


def _stages(acl: AclFile, user: str | None, client_id: str | None) -> Iterator[list[Rule] | None]:
    """Yield the rules of each stage in mosquitto's order; None where the client's name bars it."""
    yield list(acl.anonymous if user is None else acl.users.get(user, ()))
    if not acl.patterns:
        return
    if any(character in (name or "") for name in (user, client_id) for character in "+#"):
        yield None
    else:
        yield [
            Rule(rule.access, _filled(rule.topic, user, client_id), rule.line)
            for rule in acl.patterns
            if not ("%u" in rule.topic and user is None) and not ("%c" in rule.topic and client_id is None)
        ]


def _filled(topic: str, user: str | None, client_id: str | None) -> str:
    """Fill %u and %c in one pass, so that a name which contains them stays as it is."""
    parts, rest = "", topic
    while "%" in rest:
        before, _, rest = rest.partition("%")
        value = {"u": user, "c": client_id}.get(rest[:1])
        parts += before + ("%" if value is None else value)
        rest = rest if value is None else rest[1:]
    return parts + rest


def _matches(topic_filter: str, name: str) -> bool:
    return not topic_filter.startswith("$share") and matches(topic_filter, name)


def _denials_first(rules: list[Rule]) -> list[Rule]:
    return sorted(rules, key=lambda rule: rule.access is not Access.DENY)


def _named(rule: Rule) -> str:
    line = f" (line {rule.line})" if rule.line else ""
    return f"rule '{rule.access.value} {rule.topic}'{line}"


def _lint_anonymous(acl: AclFile) -> Iterator[LintIssue]:
    for rule in acl.anonymous:
        yield LintIssue(
            f"{_named(rule)} stands before any 'user' line: it holds for clients without a user name only",
            rule.line,
            serious=rule.access is not Access.DENY,
        )
    yield from _lint_rules(None, acl.anonymous)


def _lint_patterns(acl: AclFile) -> Iterator[LintIssue]:
    for rule in acl.patterns:
        if "%u" not in rule.topic and "%c" not in rule.topic:
            yield LintIssue(
                f"pattern {_named(rule)} has neither %u nor %c: it holds for every client alike",
                rule.line,
                serious=rule.access is not Access.DENY,
            )
        elif "%c" in rule.topic:
            yield LintIssue(
                f"pattern {_named(rule)}: any user may take any client identifier, so %c protects nothing",
                rule.line,
                serious=True,
            )


def _lint_rules(user: str | None, rules: tuple[Rule, ...]) -> Iterator[LintIssue]:
    whose = "clients without a user name" if user is None else f"user {user!r}"
    seen: set[Rule] = set()
    for rule in rules:
        if "%u" in rule.topic or "%c" in rule.topic:
            yield LintIssue(f"{_named(rule)}: %u and %c stay as they are outside 'pattern' lines", rule.line)
        if rule.topic.startswith("$share"):
            yield LintIssue(f"{_named(rule)} never matches: the filter inside a shared subscription counts", rule.line)
        if rule.topic in ("read", "write", "readwrite", "deny"):
            yield LintIssue(f"{_named(rule)}: a topic of the name of an access; is the filter missing?", rule.line)
        if rule.topic in ("#", "+/#") and rule.access.allows(Access.WRITE):
            yield LintIssue(f"{whose} may write every topic: {_named(rule)}", rule.line)
        if rule.topic.startswith("$SYS") and rule.access.allows(Access.WRITE) and rule.topic != BRIDGE_STATE:
            yield LintIssue(f"{_named(rule)}: mosquitto lets no client write $SYS", rule.line)
        if rule in seen:
            yield LintIssue(f"{_named(rule)} is there twice for {whose}", rule.line)
        seen.add(rule)
        yield from _lint_denied(rule, rules)


def _lint_denied(rule: Rule, rules: tuple[Rule, ...]) -> Iterator[LintIssue]:
    if rule.access is Access.DENY:
        return
    for denial in rules:
        if denial.access is Access.DENY and covers(denial.topic, rule.topic):
            yield LintIssue(f"{_named(rule)} has no effect: {_named(denial)} comes first", rule.line)


def _lint_users(acl: AclFile, users: Collection[str]) -> Iterator[LintIssue]:
    for user in acl.users:
        if user not in users:
            yield LintIssue(f"user {user!r} has rules and no password: nobody can log in as it")
    for user in users:
        if not acl.users.get(user) and not acl.patterns:
            yield LintIssue(f"user {user!r} has no rule: it may do nothing")
