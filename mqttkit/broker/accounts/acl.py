"""mosquitto's ACL file: model, parser, writer. Pure except for `load`.

`topic` lines before the first `user` line apply only to clients without a user name, later ones to the user above
them. `pattern` lines apply to every client, with %u and %c filled in. The parser accepts what mosquitto 2.0 accepts.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from mqttkit.broker.accounts.passwords import check_user_name
from mqttkit.errors import TopicError, UsageError
from mqttkit.files import read_text
from mqttkit.topics import check_topic_filter

MAX_TOPIC_BYTES = 65_535
MAX_LEVELS = 200
"""mosquitto's limit of '/' in a topic."""
_BLANKS = " \t\v\f\r"


class Access(enum.Enum):
    """What a rule grants or denies."""

    READ = "read"
    WRITE = "write"
    READWRITE = "readwrite"
    DENY = "deny"

    def allows(self, wanted: Access) -> bool:
        """Return whether a rule with this access allows READ or WRITE."""
        return self in (wanted, Access.READWRITE)


@dataclass(frozen=True)
class AclRule:
    """One `topic` or `pattern` line."""

    access: Access
    """What it grants or denies."""
    topic: str
    """Topic filter; in a pattern it may contain %u and %c."""
    line: int = field(default=0, compare=False)
    """Line number in the file; 0 for a rule that does not come from a file."""

    def render(self, keyword: str = "topic") -> str:
        """Return the line with its line end."""
        return f"{keyword} {self.access.value} {self.topic}\n"


@dataclass(frozen=True)
class AclFile:
    """The rules of an ACL file, grouped by the clients they apply to."""

    anonymous: tuple[AclRule, ...] = ()
    """For clients without a user name."""
    users: Mapping[str, tuple[AclRule, ...]] = field(default_factory=dict)
    """For each user, in the file's order; a user may have none."""
    patterns: tuple[AclRule, ...] = ()
    """For every client."""
    comments: tuple[str, ...] = field(default=(), compare=False)
    """Comment lines at the top of the file; other comments are lost when the file is written."""

    @classmethod
    def parse(cls, text: str, *, where: str = "ACL file") -> AclFile:
        """Read the text; raise UsageError with file and line if mosquitto would reject the file."""
        reader = _Reader()
        for number, line in enumerate(text.split("\n"), 1):
            try:
                reader.read(line.rstrip(_BLANKS), number)
            except ValueError as error:
                raise UsageError(f"{where}:{number}: {error}") from error
        return reader.result()

    @classmethod
    def load(cls, path: Path) -> AclFile:
        """Read a file; raise UsageError if it is missing, a symbolic link or invalid."""
        return cls.parse(read_text(path), where=str(path))

    @classmethod
    def salvage(cls, text: str) -> tuple[AclFile, list[str]]:
        """Return the valid rules, and what was dropped: `NUMBER: LINE` of each invalid line.

        The `topic` lines after an invalid one are dropped too, up to the next `user` line, because they might belong to
        another user.
        """
        reader, dropped, lost = _Reader(), [], False
        for number, line in enumerate(text.split("\n"), 1):
            words = line.split()
            if lost and words[:1] == ["topic"]:
                dropped.append(f"{number}: {line}")
                continue
            try:
                reader.read(line.rstrip(_BLANKS), number)
                lost = lost and words[:1] != ["user"]
            except ValueError:
                dropped.append(f"{number}: {line}")
                lost = lost or words[:1] not in (["topic"], ["pattern"])
        return reader.result(), dropped

    def render(self) -> str:
        """Return the file's text: anonymous first, then each user, then the patterns."""
        blocks = ["".join(f"{line}\n" for line in self.comments)] if self.comments else []
        blocks += ["".join(rule.render() for rule in self.anonymous)] if self.anonymous else []
        blocks += [f"user {user}\n{''.join(rule.render() for rule in rules)}" for user, rules in self.users.items()]
        if self.patterns:
            blocks.append("".join(rule.render("pattern") for rule in self.patterns))
        return "\n".join(blocks)

    def with_rules(self, user: str, *rules: AclRule) -> AclFile:
        """Return a copy in which the user also has these rules; `read` and `write` on one filter become `readwrite`."""
        check_user_name(user)
        merged = list(self.users.get(user, ()))
        for rule in rules:
            check_rule(rule)
            merged = _merge(merged, rule)
        return self._with_user(user, tuple(merged))

    def without_rule(self, user: str, topic: str, access: Access | None = None) -> AclFile:
        """Return a copy without the user's rule on exactly this filter, or without its `access` part.

        Raises UsageError if there is no such rule.
        """
        kept: list[AclRule] = []
        for rule in self.users.get(user, ()):
            kept += [rule] if rule.topic != topic else _without_access(rule, access)
        if tuple(kept) == tuple(self.users.get(user, ())):
            what = "" if access is None else f"{access.value} "
            raise UsageError(
                f"user {user!r} has no rule {what}{topic!r}",
                hint=f"List them with: mqttkit broker acl list {user}",
            )
        return self._with_user(user, tuple(kept))

    def without_user(self, user: str) -> AclFile:
        """Return a copy without any rule of the user."""
        return replace(self, users={name: rules for name, rules in self.users.items() if name != user})

    def _with_user(self, user: str, rules: tuple[AclRule, ...]) -> AclFile:
        return replace(self, users={**self.users, user: rules})


def check_rule(rule: AclRule) -> None:
    """Raise UsageError for a user's rule that can never apply."""
    try:
        check_topic_filter(rule.topic)
    except TopicError as error:
        raise UsageError(str(error)) from error
    if rule.topic != rule.topic.strip(_BLANKS) or "\n" in rule.topic:
        raise UsageError(f"an ACL file cannot contain {rule.topic!r}: it has white space at its ends, or a line end")
    if rule.topic.startswith("$share"):
        raise UsageError(
            f"{rule.topic!r} never matches: of a shared subscription mosquitto checks only the filter after the group",
            hint="Grant the filter that follows the group's name",
        )
    if "%u" in rule.topic or "%c" in rule.topic:
        raise UsageError(
            f"{rule.topic!r} would match no topic: mosquitto fills in %u and %c only in 'pattern' lines",
            hint="Name the user in the filter",
        )
    problem = _filter_problem(rule.topic)
    if problem:
        raise UsageError(problem)


class _Reader:
    """Collects rules line by line, as mosquitto's parser does; raises ValueError."""

    def __init__(self) -> None:
        self.anonymous: list[AclRule] = []
        self.users: dict[str, list[AclRule]] = {}
        self.patterns: list[AclRule] = []
        self.comments: list[str] = []
        self._top = True
        self._target = self.anonymous

    def read(self, line: str, number: int) -> None:
        """Read one line without its trailing white space."""
        if line.startswith("#") or not line.strip(" "):
            self.comments += [line] if line and self._top else []
            return
        self._top = False
        if "\0" in line:
            raise ValueError("a NUL character")
        keyword, _, rest = line.lstrip(" ").partition(" ")
        rest = rest.lstrip(" ")
        if keyword == "user":
            self._read_user(rest.strip(_BLANKS))
        elif keyword in ("topic", "pattern"):
            rule = _parse_rule(rest, number)
            (self._target if keyword == "topic" else self.patterns).append(rule)
        else:
            raise ValueError(f"{keyword!r} is not 'user', 'topic' or 'pattern'")

    def result(self) -> AclFile:
        """Return what was read."""
        users = {user: tuple(rules) for user, rules in self.users.items()}
        return AclFile(tuple(self.anonymous), users, tuple(self.patterns), tuple(self.comments))

    def _read_user(self, user: str) -> None:
        if not user:
            raise ValueError("'user' without a name")
        self._target = self.users.setdefault(user, [])


def _parse_rule(rest: str, number: int) -> AclRule:
    if not rest:
        raise ValueError("a line without a topic filter")
    word, _, topic = rest.partition(" ")
    topic = topic.strip(_BLANKS)
    if not topic:
        access, topic = Access.READWRITE, word
    elif word in {entry.value for entry in Access}:
        access = Access(word)
    else:
        raise ValueError(f"access {word!r} is not 'read', 'write', 'readwrite' or 'deny'")
    problem = _filter_problem(topic)
    if problem:
        raise ValueError(problem)
    return AclRule(access, topic, number)


def _filter_problem(topic: str) -> str:
    """Return why mosquitto rejects the filter, or an empty string."""
    levels = topic.split("/")
    for index, level in enumerate(levels):
        if ("+" in level and level != "+") or ("#" in level and (level != "#" or index != len(levels) - 1)):
            return f"the topic filter {topic!r} has a misplaced wildcard"
    if len(topic.encode(errors="surrogatepass")) > MAX_TOPIC_BYTES:
        return f"the topic filter is longer than {MAX_TOPIC_BYTES:,} bytes"
    if len(levels) - 1 > MAX_LEVELS:
        return f"the topic filter has more than {MAX_LEVELS} levels"
    return ""


def _merge(rules: list[AclRule], new: AclRule) -> list[AclRule]:
    """Add a rule; `read` and `write` on one filter become `readwrite`, and a denial stays a separate rule."""
    same = [rule for rule in rules if rule.topic == new.topic and (rule.access is Access.DENY) is _denies(new)]
    if not same:
        return [*rules, new]
    if same[0].access in (new.access, Access.READWRITE):
        return rules
    joined = AclRule(Access.READWRITE, new.topic)
    return [joined if rule is same[0] else rule for rule in rules]


def _denies(rule: AclRule) -> bool:
    return rule.access is Access.DENY


def _without_access(rule: AclRule, access: Access | None) -> list[AclRule]:
    """Return what remains of a rule when `access` is revoked."""
    if access is None or access is rule.access:
        return []
    if rule.access is Access.READWRITE and access in (Access.READ, Access.WRITE):
        return [AclRule(Access.WRITE if access is Access.READ else Access.READ, rule.topic)]
    if access is Access.READWRITE and rule.access is not Access.DENY:
        return []
    return [rule]
