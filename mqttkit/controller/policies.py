"""Policies: the highest version wins, in any order of arrival."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from mqttkit.controller.messages.refusals import MessageRefusal, MessageRefused
from mqttkit.controller.security.gate import OpenedMessage
from mqttkit.controller.store import Novelty, Store, StoredPolicy


@dataclass(frozen=True)
class Policy:
    """One policy for `global` or a region."""

    scope: str
    version: int
    """Increases with each policy of the scope."""
    rules: Mapping[str, Any]
    """The content; a JSON object."""
    expires: int | None = None
    """Milliseconds since the epoch at which the policy expires; None if it never does."""

    def to_payload(self) -> dict[str, Any]:
        """Return the payload of its message."""
        return {"version": self.version, "rules": dict(self.rules), "expires": self.expires}


def parse_policy(scope: str, payload: Mapping[str, Any]) -> Policy:
    """Return the policy in a payload; raise MessageRefused (malformed)."""
    version, rules, expires = payload.get("version"), payload.get("rules"), payload.get("expires")
    if type(version) is not int or not 1 <= version < 2**53:
        raise MessageRefused(MessageRefusal.MALFORMED, "policy version must be a whole number from 1 to 2^53-1")
    if not isinstance(rules, dict):
        raise MessageRefused(MessageRefusal.MALFORMED, "policy rules must be a JSON object")
    if expires is not None and type(expires) is not int:
        raise MessageRefused(MessageRefusal.MALFORMED, "policy expires must be null or milliseconds since the epoch")
    return Policy(scope, version, rules, expires)


class PolicyBook:
    """The policies in force, by scope, in the controller's store."""

    def __init__(self, store: Store, *, now: Callable[[], float] = time.time) -> None:
        self._store = store
        self._now = now

    def current(self, scope: str) -> Policy | None:
        """Return the policy in force; None if there is none or it has expired."""
        stored = self._store.policy(scope)
        if stored is None or (stored.expires is not None and stored.expires <= self._now() * 1000):
            return None
        return Policy(scope, stored.version, json.loads(stored.payload), stored.expires)

    def judge(self, scope: str, opened: OpenedMessage) -> tuple[Policy, Novelty]:
        """Return the policy and whether it is new; raise MessageRefused (stale, conflict, expired, malformed).

        The broker sends a retained policy at each subscription, perhaps days later. So the version and the expiry
        decide, not the age or the nonce.
        """
        policy = parse_policy(scope, opened.envelope.payload)
        stored = self._store.policy(scope)
        if stored is not None and policy.version < stored.version:
            text = f"policy {scope} version {policy.version} is older than {stored.version}"
            raise MessageRefused(MessageRefusal.STALE, text)
        if stored is not None and policy.version == stored.version:
            if (json.loads(stored.payload), stored.expires) != (policy.rules, policy.expires):
                text = f"policy {scope} version {policy.version} was seen before with different content"
                raise MessageRefused(MessageRefusal.CONFLICT, text)
            return policy, Novelty.SAME
        if policy.expires is not None and policy.expires <= self._now() * 1000:
            raise MessageRefused(MessageRefusal.EXPIRED, f"policy {scope} version {policy.version} has expired")
        return policy, Novelty.NEW

    def put(self, policy: Policy) -> None:
        """Put a policy in force."""
        text = json.dumps(dict(policy.rules), separators=(",", ":"))
        self._store.set_policy(policy.scope, StoredPolicy(policy.version, policy.expires, text))
