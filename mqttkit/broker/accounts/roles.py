"""Accounts of a broker: users with passwords, and what each may read and write. Pure.

`AccountFiles` is both files as one value: each change returns a copy, and `changed_from` returns what to write.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from mqttkit.broker.accounts.acl import Access, AclFile, AclRule
from mqttkit.broker.accounts.passwords import (
    DEFAULT_ITERATIONS,
    PasswordFile,
    check_user_name,
)
from mqttkit.broker.file_names import ACL_FILE, PASSWORD_FILE
from mqttkit.broker.mosquitto.configuration import CANARY, OPERATOR, PROBE
from mqttkit.errors import UsageError

OWN_USERS = (OPERATOR, PROBE, CANARY)
"""Users that mqttkit creates for itself."""

_DEVICE = (
    (Access.READ, "commands/{user}/#"),
    (Access.WRITE, "sensors/{user}/#"),
    (Access.WRITE, "sensor/{user}/#"),
    (Access.WRITE, "ble/raw/{user}/#"),
    (Access.WRITE, "status/{user}/#"),
    (Access.WRITE, "events/{user}/#"),
)
_EVERY_CONTROLLER = (
    *((Access.READ, f"pdsno/{topic}") for topic in ("policy/+", "events/+", "messages/#", "status/+")),
    *((Access.READ, f"pdsno/{topic}/{{user}}") for topic in ("requests", "answers")),
    *((Access.WRITE, f"pdsno/{topic}") for topic in ("events/+", "messages/#", "requests/+", "answers/+")),
    (Access.WRITE, "pdsno/status/{user}"),
)
"""What controllers of every role need; the user's name is the controller's identifier."""
_LOCAL = ((Access.READ, "pdsno/receipts/+/{user}"), (Access.WRITE, "pdsno/discovery/+/{user}"))
_REGIONAL = (
    (Access.READ, "pdsno/discovery/+/+"),
    (Access.WRITE, "pdsno/receipts/+/+"),
    (Access.WRITE, "pdsno/policy/+"),
)

ROLES: dict[str, tuple[tuple[Access, str], ...]] = {
    "device": _DEVICE,
    "metrics-device": (*_DEVICE, (Access.WRITE, "metrics/+/{user}/#")),
    "service": (
        (Access.READ, "sensors/#"),
        (Access.READ, "sensor/#"),
        (Access.READ, "ble/raw/#"),
        (Access.READ, "status/#"),
        (Access.READ, "events/#"),
        (Access.READWRITE, "commands/#"),
        (Access.READWRITE, "metrics/#"),
        (Access.WRITE, "status/{user}/#"),
        (Access.WRITE, "events/{user}/#"),
    ),
    "monitor": (
        (Access.READ, "#"),
        (Access.READ, "$SYS/#"),
    ),
    "bridge": (
        (Access.READ, "metrics/#"),
        (Access.WRITE, "metrics/_mqttkit/canary/#"),
        (Access.WRITE, "metrics/_mqttkit/group/#"),
        (Access.WRITE, "status/{user}/#"),
        (Access.WRITE, "events/{user}/#"),
    ),
    "controller": (*_EVERY_CONTROLLER, *_LOCAL, *_REGIONAL),
    "controller-local": (*_EVERY_CONTROLLER, *_LOCAL),
    "controller-regional": (*_EVERY_CONTROLLER, *_REGIONAL),
    "controller-global": (*_EVERY_CONTROLLER, (Access.WRITE, "pdsno/policy/global")),
}
"""What each role may do; {user} is the user's name."""


@dataclass(frozen=True)
class AccountFiles:
    """Password file and ACL file of one broker."""

    passwords: PasswordFile = field(default_factory=PasswordFile)
    """The users that may log in."""
    acl: AclFile = field(default_factory=AclFile)
    """What each user may do."""

    @classmethod
    def parse(cls, passwords: bytes | None, acl: bytes | None) -> AccountFiles:
        """Read both files; raise UsageError if one is missing or invalid."""
        return cls(
            PasswordFile.parse(_text(passwords, PASSWORD_FILE), where=PASSWORD_FILE),
            AclFile.parse(_text(acl, ACL_FILE), where=ACL_FILE),
        )

    def changed_from(self, before: AccountFiles) -> dict[str, bytes]:
        """Return name and content of each file that differs."""
        now = {PASSWORD_FILE: self.passwords.render(), ACL_FILE: self.acl.render()}
        then = {PASSWORD_FILE: before.passwords.render(), ACL_FILE: before.acl.render()}
        return {name: text.encode() for name, text in now.items() if text != then[name]}

    def add(
        self, user: str, password: str, *, role: str | None = None, iterations: int = DEFAULT_ITERATIONS
    ) -> AccountFiles:
        """Add a user with the rules of a role; raise UsageError if the user exists."""
        _check_not_own(user)
        if user in self.passwords.hashes:
            raise UsageError(
                f"user {user!r} already exists",
                hint=f"Change the password with: mqttkit broker user passwd {user}",
            )
        passwords = self.passwords.with_user(user, password, iterations=iterations)
        acl = self.acl.without_user(user).with_rules(user, *(role_rules(role, user) if role else ()))
        return replace(self, passwords=passwords, acl=acl)

    def set_password(self, user: str, password: str, *, iterations: int = DEFAULT_ITERATIONS) -> AccountFiles:
        """Give a user another password."""
        self.known(user)
        _check_not_own(user)
        return replace(self, passwords=self.passwords.with_user(user, password, iterations=iterations))

    def remove(self, user: str) -> AccountFiles:
        """Remove a user and every rule of it."""
        _check_not_own(user)
        return replace(self, passwords=self.passwords.without_user(user), acl=self.acl.without_user(user))

    def grant(self, user: str, access: Access, topic: str) -> AccountFiles:
        """Give a user one more rule."""
        self.known(user)
        _check_not_own(user)
        return replace(self, acl=self.acl.with_rules(user, AclRule(access, topic)))

    def revoke(self, user: str, topic: str, access: Access | None = None) -> AccountFiles:
        """Revoke a rule of a user; `access` None revokes all rules on that filter."""
        self.known(user)
        _check_not_own(user)
        return replace(self, acl=self.acl.without_rule(user, topic, access))

    def known(self, user: str) -> None:
        """Raise UsageError if there is no such user."""
        check_user_name(user)
        if user not in self.passwords.hashes:
            raise UsageError(
                f"user {user!r} does not exist", hint=f"Add it with: mqttkit broker user add {user} --generate"
            )


def role_rules(role: str, user: str) -> list[AclRule]:
    """Return the rules that a role gives a user; raise UsageError for an unknown role."""
    if role not in ROLES:
        raise UsageError(f"unknown role {role!r}", hint=f"Choose one of: {', '.join(ROLES)}")
    check_user_name(user)
    return [AclRule(access, topic.format(user=user)) for access, topic in ROLES[role]]


def _check_not_own(user: str) -> None:
    if user in OWN_USERS:
        raise UsageError(
            f"user {user!r} belongs to mqttkit: commands and health checks log in as it",
            hint="Create another user with: mqttkit broker user add NAME",
        )


def _text(content: bytes | None, name: str) -> str:
    if content is None:
        raise UsageError(f"the broker's {name} is missing", hint="Write it again with: mqttkit broker restart")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise UsageError(f"{name} is not UTF-8 text: byte {error.start}") from error
