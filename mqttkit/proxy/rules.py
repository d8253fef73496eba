"""Rules such as `drop PUBACK 3`:

which packets, and what happens to them. Seeded, so that a run can be repeated. Pure.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, field

from mqttkit.errors import UsageError
from mqttkit.proxy.framing import TYPES

ACTIONS = ("drop", "duplicate", "delay", "cut", "answer")
EXAMPLES = "drop PUBACK 3; duplicate PUBLISH every 10; delay PUBLISH 200ms±50; cut PUBLISH 5; answer CONNECT 0x97"
FROM = {"client": True, "broker": False}


@dataclass
class FaultRule:
    """What happens to some of the packets of one type."""

    action: str
    """`drop`, `duplicate`, `delay`, `cut` (half of the packet, then the connection ends) or `answer` (a refusal)."""
    kind: int
    """Packet type."""
    from_client: bool | None = None
    """Only packets from the client, or only from the broker; None: both."""
    nth: int = 0
    """Only this packet, from 1; 0: not limited."""
    every: int = 0
    """Only each so-manieth packet; 0: not limited."""
    share: float = 1.0
    """Only this share of the packets, chosen at random."""
    seconds: float = 0.0
    """Delay."""
    spread: float = 0.0
    """The delay varies by up to so many seconds to either side."""
    code: int = 0
    """Reason code of an answer."""
    count: int = field(default=0, compare=False)
    """Packets of the type seen so far."""
    applied: int = field(default=0, compare=False)
    """Times that the rule was applied."""

    def applies(self, kind: int, from_client: bool, chance: random.Random) -> bool:
        """Count a packet, and return whether the rule applies to it."""
        if kind != self.kind or (self.from_client is not None and from_client != self.from_client):
            return False
        self.count += 1
        chosen = (
            (not self.nth or self.count == self.nth)
            and (not self.every or self.count % self.every == 0)
            and (self.share >= 1.0 or chance.random() < self.share)
        )
        self.applied += chosen
        return chosen

    def delay(self, chance: random.Random) -> float:
        """Return the seconds of one delay."""
        return max(self.seconds + chance.uniform(-self.spread, self.spread), 0.0)


def parse_rule(text: str) -> FaultRule:
    """Return the rule of ACTION PACKET [WHICH] [VALUE] [from client|broker]; raise UsageError."""
    words = text.split()
    try:
        return _parse(words)
    except (ValueError, IndexError):
        raise UsageError(f"{text!r} is not a rule", hint=f"Examples: {EXAMPLES}") from None


def _parse(words: list[str]) -> FaultRule:
    action, kind = words[0].lower(), TYPES.get(words[1].upper(), 0)
    if action not in ACTIONS or not kind:
        raise ValueError
    rule = FaultRule(action, kind)
    rest = words[2:]
    while rest:
        word = rest.pop(0).lower()
        if word == "from":
            rule.from_client = FROM.get(rest.pop(0).lower())
            if rule.from_client is None:
                raise ValueError
        elif word == "every":
            rule.every = _positive(rest.pop(0))
        elif word.endswith("%"):
            rule.share = float(word[:-1]) / 100
            if not 0 < rule.share <= 1:
                raise ValueError
        elif (action == "delay" and word.endswith(("ms", "s"))) or "±" in word:
            _parse_delay(rule, word)
        elif action == "answer" and word.startswith("0x"):
            rule.code = int(word, 16)
        else:
            rule.nth = _positive(word)
    _check(rule)
    return rule


def _check(rule: FaultRule) -> None:
    if rule.action == "answer" and (rule.kind != TYPES["CONNECT"] or not 0 < rule.code < 256):
        raise ValueError
    if rule.action == "delay" and not rule.seconds:
        raise ValueError


def _parse_delay(rule: FaultRule, word: str) -> None:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s)(?:±(\d+(?:\.\d+)?))?", word)
    if found is None:
        raise ValueError
    unit = 0.001 if found[2] == "ms" else 1.0
    rule.seconds, rule.spread = float(found[1]) * unit, float(found[3] or 0) * unit


def _positive(word: str) -> int:
    number = int(word)
    if number < 1:
        raise ValueError
    return number
