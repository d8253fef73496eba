"""Authority: the role and the region of a key limit the messages that it may sign."""

from __future__ import annotations

import pytest

from mqttkit.controller.messages.envelope import Envelope, new_message_id
from mqttkit.controller.messages.refusals import MessageRefusal, MessageRefused
from mqttkit.controller.messages.topics import Topics
from mqttkit.controller.security.authority import check_authority
from mqttkit.controller.security.gate import Gate, SignedCodec
from mqttkit.controller.security.keys import Key, KeyRing, generate, key_from_json, key_to_json
from mqttkit.controller.store import Store
from mqttkit.errors import UsageError

TOPICS = Topics()
LOCAL = generate("l", "HS256", owner="lc-1", role="local", region="zone-A")
REGIONAL = generate("r", "HS256", owner="rc-1", role="regional", region="zone-A")
GLOBAL = generate("g", "HS256", owner="gc-1", role="global")
OPERATOR = generate("op", "HS256", owner="op-1", role="operator")
OWNED = generate("o", "HS256", owner="lc-1")
SHARED = generate("s", "HS256")
TYPES = {"discovery": "discovery.report", "policy": "policy.update", "events": "event", "status": "status"}
TYPES |= {"receipts": "receipt", "requests": "request", "answers": "answer", "messages": "acme.x"}


def envelope(topic: str, sender: str, about: str, **payload: object) -> Envelope:
    """A message of the type that belongs on the topic."""
    kind = TYPES[topic.split("/")[1]]
    return Envelope(
        message_id=new_message_id(), message_type=kind, sender_id=sender, region=about, timestamp=0, sequence=1,
        payload=payload,
    )  # fmt: skip


def refusal(key: Key, topic: str, region: str, payload: dict[str, object] | None = None) -> MessageRefusal | None:
    """Return why the key may not sign for the topic, or None."""
    message = envelope(topic, key.owner or "any", region, **(payload or {}))
    try:
        check_authority(key, TOPICS.place(topic), message)
    except MessageRefused as error:
        return error.reason
    return None


@pytest.mark.parametrize(("key", "topic", "region", "allowed"), [
    (LOCAL, "pdsno/discovery/zone-A/lc-1", "zone-A", True),
    (LOCAL, "pdsno/discovery/zone-B/lc-1", "zone-B", False),
    (REGIONAL, "pdsno/discovery/zone-A/rc-1", "zone-A", False),
    (GLOBAL, "pdsno/discovery/zone-A/gc-1", "zone-A", False),
    (OWNED, "pdsno/discovery/zone-A/lc-1", "zone-A", False),
    (REGIONAL, "pdsno/receipts/zone-A/lc-1", "zone-A", True),
    (REGIONAL, "pdsno/receipts/zone-B/lc-1", "zone-B", False),
    (LOCAL, "pdsno/receipts/zone-A/lc-1", "zone-A", False),
    (GLOBAL, "pdsno/receipts/zone-A/lc-1", "zone-A", False),
    (LOCAL, "pdsno/policy/global", "global", False),
    (REGIONAL, "pdsno/policy/global", "global", False),
    (GLOBAL, "pdsno/policy/global", "global", True),
    (OWNED, "pdsno/policy/global", "global", False),
    (LOCAL, "pdsno/policy/zone-A", "zone-A", False),
    (REGIONAL, "pdsno/policy/zone-A", "zone-A", True),
    (REGIONAL, "pdsno/policy/zone-B", "zone-B", False),
    (GLOBAL, "pdsno/policy/zone-A", "zone-A", False),
    (LOCAL, "pdsno/events/system", "global", True),
    (OWNED, "pdsno/events/system", "global", True),
    (LOCAL, "pdsno/events/zone-A", "zone-A", True),
    (LOCAL, "pdsno/events/zone-B", "zone-B", False),
    (OWNED, "pdsno/events/zone-A", "zone-A", False),
    (GLOBAL, "pdsno/events/zone-B", "zone-B", True),
    (OPERATOR, "pdsno/events/zone-B", "zone-B", True),
    (OPERATOR, "pdsno/policy/global", "global", False),
    (OPERATOR, "pdsno/policy/zone-A", "zone-A", False),
    (OPERATOR, "pdsno/discovery/zone-A/op-1", "zone-A", False),
    (OPERATOR, "pdsno/receipts/zone-A/lc-1", "zone-A", False),
    (OPERATOR, "pdsno/requests/lc-1", "zone-A", True),
    (LOCAL, "pdsno/requests/rc-1", "zone-A", True),
    (LOCAL, "pdsno/requests/rc-1", "zone-B", False),
    (LOCAL, "pdsno/answers/rc-1", "zone-A", True),
    (LOCAL, "pdsno/messages/acme/zone-A", "zone-A", True),
    (LOCAL, "pdsno/messages/acme/zone-B", "zone-B", False),
    (LOCAL, "pdsno/messages/acme/system", "global", True),
])  # fmt: skip
def test_a_key_signs_only_what_its_role_and_region_allow(key: Key, topic: str, region: str, allowed: bool) -> None:
    """Each type of message on each kind of topic."""
    assert refusal(key, topic, region) is (None if allowed else MessageRefusal.NOT_ALLOWED)


@pytest.mark.parametrize("topic", ["pdsno/discovery/zone-A/any", "pdsno/policy/global", "pdsno/events/zone-B"])
def test_a_shared_key_signs_everything(topic: str) -> None:
    """The secret of a small set-up has neither an owner nor a role."""
    assert refusal(SHARED, topic, "zone-A", {"role": "global"}) is None


@pytest.mark.parametrize(("key", "region", "payload", "allowed"), [
    (LOCAL, "zone-A", {"role": "local", "region": "zone-A"}, True),
    (LOCAL, "zone-A", {}, True),
    (LOCAL, "zone-A", {"role": "global"}, False),
    (LOCAL, "zone-A", {"region": "zone-B"}, False),
    (LOCAL, "zone-B", {}, False),
    (LOCAL, "zone-B", {"region": "zone-B"}, False),
    (GLOBAL, "zone-B", {"role": "global", "region": "zone-B"}, True),
    (OWNED, "zone-B", {"role": "regional"}, True),
])  # fmt: skip
def test_a_heartbeat_cannot_claim_another_role_or_region(
    key: Key, region: str, payload: dict[str, object], allowed: bool
) -> None:
    """What the heartbeat says about the controller agrees with its key."""
    found = refusal(key, f"pdsno/status/{key.owner}", region, payload)
    assert found is (None if allowed else MessageRefusal.NOT_ALLOWED)


def test_a_key_of_one_owner_signs_for_no_other_sender() -> None:
    """Even if the role fits."""
    with pytest.raises(MessageRefused) as caught:
        check_authority(LOCAL, TOPICS.place("pdsno/events/system"), envelope("pdsno/events/system", "lc-2", "zone-A"))
    assert caught.value.reason is MessageRefusal.WRONG_SENDER


def test_the_gate_refuses_a_policy_that_a_local_controller_signed() -> None:
    """A signature alone gives no authority: the highest version would make every real policy stale."""
    codec = SignedCodec(KeyRing().add(LOCAL).activate("l"))
    topic = TOPICS.policy()
    forged = envelope(topic, "lc-1", "global", version=2**53 - 1, rules={})
    store = Store()
    with pytest.raises(MessageRefused) as caught:
        Gate(codec, store).open(TOPICS.place(topic), codec.wrap(forged, topic), dup=False)
    store.close()
    assert caught.value.reason is MessageRefusal.NOT_ALLOWED


def test_each_controller_signs_with_its_own_key() -> None:
    """One ring may hold the keys of several controllers; a key without an owner serves the others."""
    ring = KeyRing().add(LOCAL).activate("l").add(REGIONAL).activate("r")
    assert (ring.signer("lc-1").kid, ring.signer("rc-1").kid) == ("l", "r")
    with pytest.raises(UsageError, match="no active key for 'gc-1'"):
        ring.signer("gc-1")
    assert ring.add(SHARED).activate("s").signer("gc-1").kid == "s"


def test_role_and_region_travel_with_the_key() -> None:
    """`key generate --out` writes them, `key add` reads them."""
    found = key_from_json(key_to_json(LOCAL), "f")
    assert (found.owner, found.role, found.region) == ("lc-1", "local", "zone-A")


@pytest.mark.parametrize(("role", "region"), [("king", None), ("local", None), ("global", "zone-A"), (None, "zone-A")])
def test_a_role_without_its_region_is_refused(role: str | None, region: str | None) -> None:
    """A local or regional key needs a region, other keys have none."""
    with pytest.raises(UsageError):
        generate("k", role=role, region=region)
