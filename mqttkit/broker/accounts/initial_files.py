"""The password and ACL files with which `up` starts a mosquitto."""

from __future__ import annotations

from dataclasses import replace

from mqttkit.broker.accounts.acl import Access, AclFile, AclRule
from mqttkit.broker.accounts.passwords import PasswordFile
from mqttkit.broker.file_names import ACL_FILE, PASSWORD_FILE
from mqttkit.broker.mosquitto.configuration import first_acl
from mqttkit.broker.profile import Profile

EVERYTHING = AclRule(Access.READWRITE, "#")


def passwords_for_start(content: bytes | None, profile: Profile) -> bytes:
    """Return the password file with the operator and the probe, who have the passwords of the profile.

    Other users stay. Raises `UsageError` if the file is broken.
    """
    users = PasswordFile.parse((content or b"").decode(errors="replace"), where=PASSWORD_FILE)
    before = users
    for user, password in (
        (profile.username, profile.password),
        (profile.probe_username, profile.probe_password),
    ):
        if user and password and not users.verify(user, password):
            users = users.with_user(user, password)
    return content if content is not None and users is before else users.render().encode()


def acl_for_start(content: bytes | None, *, anonymous: bool) -> bytes:
    """Return the first ACL file, or the existing one with or without the rule that `--anonymous` adds.

    Other rules for anonymous clients stay. Raises `UsageError` if the file is broken.
    """
    if content is None:
        return first_acl(anonymous=anonymous).encode()
    acl = AclFile.parse(content.decode(errors="surrogateescape"), where=ACL_FILE)
    if anonymous and not acl.anonymous:
        return replace(acl, anonymous=(EVERYTHING,)).render().encode()
    if not anonymous and acl.anonymous == (EVERYTHING,):
        return replace(acl, anonymous=()).render().encode()
    return content
