"""Rotate a signing key while controllers run: each step waits for the proof that the last one has arrived."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from mqttkit.controller.operation.operator import Operator, RetainedState
from mqttkit.controller.security.keys import Key, KeyFile, KeyRing, KeyStatus, generate
from mqttkit.controller.transports.mqtt import SESSION_SECONDS
from mqttkit.errors import MqttkitError, RequestFailed, UsageError
from mqttkit.settings import ControllerSettings, MqttSettings

KEEP_SECONDS = SESSION_SECONDS + 600.0
"""How long the old key still verifies: as long as the broker keeps messages for an absent controller."""
ANSWER_SECONDS = 5.0
"""Seconds that one controller has to answer."""
LOOK_SECONDS = 0.5
"""Seconds between two rounds of questions."""


class RotationIncomplete(MqttkitError):
    """A step of a rotation is not proven yet; running it again continues there."""


@dataclass(frozen=True)
class RotationPlan:
    """What to rotate, and how patiently."""

    old: str
    """Identifier of the key that signs now."""
    new: str
    """Identifier of the key that replaces it."""
    timeout: float = 60.0
    """Seconds that each step has."""
    keep: float = KEEP_SECONDS
    """Seconds for which the old key still verifies afterwards."""


class KeyRotation:
    """The steps of one rotation, in their order. `say` gets a line for each step."""

    def __init__(
        self,
        keys: KeyFile,
        settings: ControllerSettings,
        mqtt: MqttSettings,
        plan: RotationPlan,
        say: Callable[[str], None],
    ) -> None:
        self._keys, self._settings, self._mqtt, self._plan, self._say = keys, settings, mqtt, plan, say

    def run(self) -> Key:
        """Rotate after `prepare` and return the new key; raise RotationIncomplete, or what the client raises."""
        plan = self._plan
        state = RetainedState(self._settings, self._mqtt)
        online = [one.controller_id for one in state.online]
        signers = [one.controller_id for one in state.online if one.kid == plan.old]
        with Operator(self._settings, self._mqtt) as operator:
            operator.require_connection(plan.timeout)
            self._say(f"[2/5] asking {len(online)} controllers whether they accept {plan.new}")
            hint = f"Add it on their machines (mqttkit controller key add {plan.new}.pub.json), then run this again"
            self._prove(operator, online, lambda answer: answer["status"] in ("accepted", "active"), hint)
            self._say(f"[3/5] signing with {plan.new}")
            self._keys.update(lambda ring: ring.activate(plan.new))
            self._say(f"[4/5] waiting until {len(signers)} controllers sign with it, policies and wills included")
            hint = f"Activate it on their machines (mqttkit controller key activate {plan.new}), then run this again"
            self._prove(
                operator,
                signers,
                lambda answer: answer["signs_with"] == plan.new and answer["will_signed_with"] in (plan.new, None),
                hint,
            )
        self._prove_retained(set(online))
        until = int(time.time() + plan.keep)
        self._keys.update(lambda ring: ring.retire_at(plan.old, until))
        moment = time.strftime("%Y-%m-%d %H:%M", time.localtime(until))
        self._say(f"[5/5] {plan.old} still verifies messages that are under way, until {moment}")
        return self._keys.ring.keys[plan.new]

    def prepare(self) -> Key:
        """Generate the new key, unless an earlier try has done that."""
        plan = self._plan

        def add(ring: KeyRing) -> KeyRing:
            old = ring.keys.get(plan.old)
            if old is None or not old.can_sign:
                raise UsageError(f"the key ring has no key {plan.old!r} that can sign")
            if plan.new in ring.keys:
                return ring
            made = generate(plan.new, old.algorithm, owner=old.owner, role=old.role, region=old.region)
            return ring.add(replace(made, replaces=plan.old))

        ring = self._keys.update(add)
        self._say(f"[1/5] key {plan.new} replaces {plan.old}")
        return ring.keys[plan.new]

    def _prove(
        self, operator: Operator, names: list[str], good: Callable[[dict[str, object]], bool], hint: str
    ) -> None:
        """Ask controllers about the new key until each answer is good; raise RotationIncomplete."""
        deadline, pause = time.monotonic() + self._plan.timeout, threading.Event()
        left = list(names)
        while True:
            left = [name for name in left if not good(self._ask(operator, name))]
            if not left:
                return
            if time.monotonic() >= deadline:
                raise RotationIncomplete(f"no proof of {', '.join(left)} about key {self._plan.new}", hint=hint)
            pause.wait(LOOK_SECONDS)

    def _ask(self, operator: Operator, name: str) -> dict[str, object]:
        unknown: dict[str, object] = {"status": None, "signs_with": ""}
        try:
            return unknown | dict(operator.request(name, "key.check", {"kid": self._plan.new}, timeout=ANSWER_SECONDS))
        except RequestFailed:
            return unknown

    def _prove_retained(self, online: set[str]) -> None:
        """Wait until nothing that the broker has retained of running controllers is signed with the old key."""
        deadline, pause = time.monotonic() + self._plan.timeout, threading.Event()
        while True:
            old = RetainedState(self._settings, self._mqtt).signed_with(self._plan.old)
            left = [one for one in old if one.startswith("policy/") or one.removeprefix("status/") in online]
            if not left:
                for one in old:
                    self._say(f"      {one} of an absent controller stays signed with {self._plan.old}")
                return
            if time.monotonic() >= deadline:
                hint = "Start the controllers that publish these, then run this again"
                raise RotationIncomplete(f"still signed with {self._plan.old}: {', '.join(left)}", hint=hint)
            pause.wait(LOOK_SECONDS)


def plan_rotation(ring: KeyRing, kid: str | None, new: str, *, timeout: float, keep: float) -> RotationPlan:
    """Return the plan for the active key `kid`, or for the only active one; continue one that was interrupted.

    Raises UsageError if there are several active keys, or none.
    """
    for key in ring:
        old = ring.keys.get(key.replaces or "")
        if old is None or not key.can_sign or kid not in (None, old.kid, key.kid):
            continue
        if not old.is_retired and not old.retires:
            return RotationPlan(old.kid, key.kid, timeout, keep)
    active = [key for key in ring if key.status is KeyStatus.ACTIVE and kid in (None, key.kid)]
    if len(active) != 1:
        names = ", ".join(key.kid for key in active) or "none"
        raise UsageError(f"name the active key to replace; active: {names}", hint="For example: --kid KID")
    return RotationPlan(active[0].kid, new, timeout, keep)
