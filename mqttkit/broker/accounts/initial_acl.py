"""The ACL file that `up` writes, and what `--anonymous` changes in one that is there."""

from __future__ import annotations

from dataclasses import replace

from mqttkit.broker.accounts.acl import Access, AclFile, Rule
from mqttkit.broker.mosquitto.configuration import first_acl

EVERYTHING = Rule(Access.READWRITE, "#")


def acl_for_start(content: bytes | None, *, anonymous: bool) -> bytes:
    """Return the ACL file for a start: a first one, or the one there with the rule of anonymous clients set right.

    A rule for anonymous clients that somebody wrote stays as it is. Raises `UsageError` for a file that is broken.
    """
    if content is None:
        return first_acl(anonymous=anonymous).encode()
    acl = AclFile.parse(content.decode(errors="surrogateescape"), where="config/acl")
    if anonymous and not acl.anonymous:
        return replace(acl, anonymous=(EVERYTHING,)).render().encode()
    if not anonymous and acl.anonymous == (EVERYTHING,):
        return replace(acl, anonymous=()).render().encode()
    return content
