"""Policies: the newest version wins, whatever order they come in. Pure but for the store."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from mqttkit.controller.messages.refusals import MessageRefused, Reason
from mqttkit.controller.security.gate import Opened
from mqttkit.controller.store import Seen, Store, StoredPolicy


@dataclass(frozen=True)
class Policy:
    """One policy for `global` or a region."""

    scope: str
    version: int
    """Grows with each policy of the scope."""
    rules: Mapping[str, Any]
    """What it says; a JSON object."""
    expires: int | None = None
    """Milliseconds since the epoch after which it must not be taken up; None for ever."""

    def to_payload(self) -> dict[str, Any]:
        """Return the payload of its message."""
        return {"version": self.version, "rules": dict(self.rules), "expires": self.expires}


def parse_policy(scope: str, payload: Mapping[str, Any]) -> Policy:
    """Return the policy in a payload; raise MessageRefused (malformed)."""
    version, rules, expires = payload.get("version"), payload.get("rules"), payload.get("expires")
    if type(version) is not int or not 1 <= version < 2**53:
        raise MessageRefused(Reason.MALFORMED, "policy version is no whole number from 1")
    if not isinstance(rules, dict):
        raise MessageRefused(Reason.MALFORMED, "policy rules are no JSON object")
    if expires is not None and type(expires) is not int:
        raise MessageRefused(Reason.MALFORMED, "policy expires is neither null nor milliseconds")
    return Policy(scope, version, rules, expires)


class PolicyBook:
    """The policies in force, by scope, in the controller's store."""

    def __init__(self, store: Store, *, now: Callable[[], float] = time.time) -> None:
        self._store = store
        self._now = now

    def current(self, scope: str) -> Policy | None:
        """Return the policy in force; None where there is none, or where it is past its end."""
        stored = self._store.policy(scope)
        if stored is None or (stored.expires is not None and stored.expires <= self._now() * 1000):
            return None
        return Policy(scope, stored.version, json.loads(stored.payload), stored.expires)

    def judge(self, scope: str, opened: Opened) -> tuple[Policy, Seen]:
        """Return the policy and whether it is new; raise MessageRefused (stale, conflict, expired, malformed).

        A retained policy comes again at each subscription, days old: version and end decide, not its age or nonce.
        """
        policy = parse_policy(scope, opened.envelope.payload)
        stored = self._store.policy(scope)
        if stored is not None and policy.version < stored.version:
            text = f"policy {scope} version {policy.version} is older than {stored.version}"
            raise MessageRefused(Reason.STALE, text)
        if stored is not None and policy.version == stored.version:
            if stored.digest != opened.digest[: len(stored.digest)]:
                text = f"policy {scope} version {policy.version} came before with other content"
                raise MessageRefused(Reason.CONFLICT, text)
            return policy, Seen.SAME
        if policy.expires is not None and policy.expires <= self._now() * 1000:
            raise MessageRefused(Reason.EXPIRED, f"policy {scope} version {policy.version} is past its end")
        return policy, Seen.NEW

    def put(self, policy: Policy, opened: Opened) -> None:
        """Put a policy in force."""
        text = json.dumps(dict(policy.rules), separators=(",", ":"))
        self._store.set_policy(policy.scope, StoredPolicy(policy.version, opened.digest, policy.expires, text))
