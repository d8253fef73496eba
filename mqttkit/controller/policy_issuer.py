"""The side that publishes a policy: versions, and what to do when something else takes the policy's place."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Mapping
from typing import Any

from mqttkit.controller.messages.envelope import Envelope
from mqttkit.controller.policies import Policy, PolicyBook
from mqttkit.controller.store import Store, StoredPolicy
from mqttkit.controller.transports.types import Promise

log = logging.getLogger(__name__)


class PolicyIssuer:
    """Publishes the policies of one scope and keeps the newest one published. Any thread may call the methods.

    The controller subscribes to the topic of its own policy, so the issuer sees each message that is retained there.
    """

    def __init__(self, scope: str, store: Store, send: Callable[[Policy], Promise], wake: Callable[[], None]) -> None:
        self.scope = scope
        self._store = store
        self._policies = PolicyBook(store)
        self._send = send
        self._wake = wake
        """Ask for a call of `reassert` in another thread."""
        self._published: Policy | None = None
        """The policy that this run published last."""
        self._overtaken = self._due = False
        self._numbering = threading.Lock()
        """Held while a version is taken: a newer one that arrives meanwhile is seen either before or after it."""
        self._signer = ""
        """The key that signed the policy when it was sent last."""

    def publish(self, rules: Mapping[str, Any], expires: int | None) -> tuple[Policy, Promise]:
        """Publish the next version, retained, and save it as the policy in force."""
        with self._numbering:
            policy = Policy(self.scope, self._store.next_number(f"policy {self.scope}"), dict(rules), expires)
            text = json.dumps(policy.rules, separators=(",", ":"))
            self._store.save_policy(self.scope, StoredPolicy(policy.version, expires, text))
            self._published = policy
        return policy, self._send(policy)

    def connected(self) -> None:
        """Note a new connection: its broker may have another policy, or none."""
        self._due = True

    def reassert(self, signer: str) -> None:
        """Send the policy again if that is due, or if another key signs now; raise StoreFailed."""
        due = self._due or self._signer not in ("", signer)
        self._due, self._signer = False, signer
        policy = self._policies.current(self.scope)
        if self._overtaken and self._published is not None:
            self._overtaken = False
            self.publish(self._published.rules, self._published.expires)
        elif due and policy is not None:
            self._send(policy)

    def replaced(self, envelope: Envelope | None, *, by_rival: bool, newer: bool) -> None:
        """Another message is retained in place of the policy in force; `envelope` None: an empty message."""
        if by_rival and envelope is not None:
            text = "%s also publishes the policy of %s; only one controller may do so"
            log.error(text, envelope.sender_id, self.scope)
        if newer and envelope is not None:
            version = int(envelope.payload["version"])
            with self._numbering:
                self._store.skip_numbers(f"policy {self.scope}", version)
                if self._published is None or by_rival:
                    return  # adopt it
            log.warning("the state file had lost version %d of policy %s", version, self.scope)
            self._overtaken = True
        self._due = True
        self._wake()
