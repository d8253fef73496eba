"""The gate of the HTTP hub: it stores only what a subscriber would accept."""

from __future__ import annotations

import time

import pytest

from mqttkit.controller.messages.envelope import Envelope, new_message_id
from mqttkit.controller.messages.refusals import MessageRefusal, MessageRefused
from mqttkit.controller.messages.topics import Topics
from mqttkit.controller.security.gate import SignedCodec
from mqttkit.controller.security.keys import KeyRing, generate
from mqttkit.controller.transports.hub_gate import HubGate

KEY = generate("k")
CODEC = SignedCodec(KeyRing().add(KEY).activate("k"))
PUBLIC = SignedCodec(KeyRing().add(KEY.public()))
REPORTS, POLICY, STATUS = "pdsno/discovery/zone-A/lc-1", "pdsno/policy/zone-A", "pdsno/status/lc-1"


def message(topic: str, kind: str, sequence: int = 1, **payload: object) -> bytes:
    """A signed message of lc-1."""
    envelope = Envelope(
        message_id=new_message_id(), message_type=kind, sender_id="lc-1", region="zone-A",
        timestamp=time.time_ns() // 1_000_000, sequence=sequence, payload=payload,
    )  # fmt: skip
    return CODEC.wrap(envelope, topic)


def refusal(gate: HubGate, topic: str, data: bytes) -> MessageRefusal:
    """Return why the hub refuses."""
    with pytest.raises(MessageRefused) as caught:
        gate.check(topic, data)
    return caught.value.reason


def test_a_replayed_report_is_refused() -> None:
    """The second copy of the same bytes; the hub has the public key only."""
    gate, data = HubGate(Topics(), PUBLIC), message(REPORTS, "discovery.report", devices=[])
    gate.check(REPORTS, data)
    assert refusal(gate, REPORTS, data) is MessageRefusal.REPLAYED


def test_an_older_policy_does_not_replace_a_newer_one() -> None:
    """The same one again is a re-assertion, and is good."""
    gate = HubGate(Topics(), PUBLIC)
    old, new = (message(POLICY, "policy.update", version=version, rules={}) for version in (1, 2))
    for data in (old, new, new):
        gate.check(POLICY, data)
    assert refusal(gate, POLICY, old) is MessageRefusal.STALE


def test_an_older_heartbeat_does_not_replace_a_newer_one() -> None:
    """Nor does the same one again."""
    gate = HubGate(Topics(), PUBLIC)
    old, new = (message(STATUS, "status", number, state="online", incarnation="i") for number in (1, 2))
    gate.check(STATUS, new)
    assert refusal(gate, STATUS, old) is MessageRefusal.STALE
    assert refusal(gate, STATUS, new) is MessageRefusal.STALE


@pytest.mark.parametrize(("topic", "data"), [(POLICY, b""), (REPORTS, b"forged"), ("elsewhere", b"x")])
def test_a_message_without_a_signature_is_refused(topic: str, data: bytes) -> None:
    """An empty one included: it would erase a policy."""
    with pytest.raises(MessageRefused):
        HubGate(Topics(), PUBLIC).check(topic, data)


@pytest.mark.parametrize(("token", "reason"), [
    ("", MessageRefusal.MALFORMED),
    ("x.y.z", MessageRefusal.MALFORMED),
    (SignedCodec(KeyRing().add(generate("k")).activate("k")).sign_request("lc-1", "/v1/messages"), "bad_signature"),
    (CODEC.sign_request("lc-1", "/v1/health"), MessageRefusal.WRONG_TOPIC),
    (SignedCodec(CODEC.keys, now=lambda: time.time() - 301).sign_request("lc-1", "/v1/messages"), "expired"),
    (SignedCodec(CODEC.keys, now=lambda: time.time() + 86_400).sign_request("lc-1", "/v1/messages"), "expired"),
], ids=["none", "malformed", "other key", "other path", "old", "future"])  # fmt: skip
def test_who_polls_proves_a_key(token: str, reason: MessageRefusal | str) -> None:
    """Signed with an accepted key, for this path, within the clock skew."""
    gate = HubGate(Topics(), PUBLIC)
    with pytest.raises(MessageRefused) as caught:
        gate.check_reader(token, "/v1/messages")
    assert caught.value.reason is MessageRefusal(reason)


def test_a_good_token_is_accepted() -> None:
    """The hub needs the public key only."""
    gate = HubGate(Topics(), PUBLIC)
    assert gate.check_reader(CODEC.sign_request("lc-1", "/v1/messages"), "/v1/messages") is None  # type: ignore[func-returns-value]
