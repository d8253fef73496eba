"""The gate: which messages a controller accepts."""

from __future__ import annotations

import functools
import hashlib
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mqttkit.controller.messages.envelope import Envelope, new_message_id
from mqttkit.controller.messages.refusals import MessageRefusal, MessageRefused
from mqttkit.controller.messages.topics import Topics
from mqttkit.controller.security.gate import Gate, PlainCodec, SignedCodec
from mqttkit.controller.security.keys import KeyRing, generate
from mqttkit.controller.security.signing import sign
from mqttkit.controller.store import Novelty, Store

TOPICS = Topics()


PLACE = TOPICS.place("pdsno/discovery/zone-A/lc-1")


KEYS = KeyRing().add(generate("k")).activate("k")


CODEC = SignedCodec(KEYS)


@pytest.fixture
def store() -> Iterator[Store]:
    """A store in memory."""
    opened = Store()
    yield opened
    opened.close()


def report(**changes: object) -> Envelope:
    """A discovery report of lc-1 in zone-A, written now."""
    fields: dict[str, object] = {
        "message_id": new_message_id(), "message_type": "discovery.report", "sender_id": "lc-1", "region": "zone-A",
        "timestamp": int(time.time() * 1000), "sequence": 1, "payload": {"devices": []},
    }  # fmt: skip
    return Envelope(**{**fields, **changes})  # type: ignore[arg-type]


def refusal(gate: Gate, data: bytes, topic: str = PLACE.topic, *, dup: bool = False) -> MessageRefusal:
    """Return why the gate refuses."""
    with pytest.raises(MessageRefused) as caught:
        gate.open(TOPICS.place(topic), data, dup=dup)
    return caught.value.reason


def admit(gate: Gate, data: bytes, *, dup: bool = False) -> Novelty:
    """Let a message in as a controller does."""
    opened, seen = gate.open(PLACE, data, dup=dup)
    gate.admit(opened, seen)
    return seen


def test_a_redelivery_is_a_duplicate_and_a_replay_is_refused(store: Store) -> None:
    """The same bytes: with the DUP flag the broker sends them again, without it somebody published them again."""
    gate = Gate(CODEC, store)
    data = CODEC.wrap(report(), PLACE.topic)
    assert admit(gate, data) is Novelty.NEW
    assert admit(gate, data, dup=True) is Novelty.SAME
    assert refusal(gate, data) is MessageRefusal.REPLAYED


def test_a_message_sent_anew_is_a_duplicate(store: Store) -> None:
    """Another way, or another try of the sender: signed again, the same message_id and content."""
    gate = Gate(CODEC, store)
    envelope = report()
    assert [admit(gate, CODEC.wrap(envelope, PLACE.topic)) for _ in range(3)] == [
        Novelty.NEW,
        Novelty.SAME,
        Novelty.SAME,
    ]


def test_one_message_id_with_other_content_is_an_attack(store: Store) -> None:
    """Even where the signature holds."""
    gate = Gate(CODEC, store)
    first = report()
    admit(gate, CODEC.wrap(first, PLACE.topic))
    changed = report(message_id=first.message_id, payload={"devices": [1]})
    assert refusal(gate, CODEC.wrap(changed, PLACE.topic)) is MessageRefusal.CONFLICT


def test_a_crash_before_the_commit_lets_the_message_in_again(tmp_path: Path) -> None:
    """And after it not; nonces live through a restart as well."""
    data = CODEC.wrap(report(), PLACE.topic)
    path = tmp_path / "state" / "store.db"
    crashed = Store(path)
    admit(Gate(CODEC, crashed), data)
    crashed._db.rollback()
    crashed._db.close()
    second = Store(path)
    assert admit(Gate(CODEC, second), data) is Novelty.NEW
    second.commit()
    second.close()
    third = Store(path)
    assert refusal(Gate(CODEC, third), data) is MessageRefusal.REPLAYED
    assert admit(Gate(CODEC, third), data, dup=True) is Novelty.SAME
    third.close()


@pytest.mark.parametrize(("changes", "topic", "expected"), [
    ({"message_type": "gossip"}, PLACE.topic, MessageRefusal.UNKNOWN_TYPE),
    ({"message_type": "event"}, PLACE.topic, MessageRefusal.UNKNOWN_TYPE),
    ({"region": "zone-B"}, PLACE.topic, MessageRefusal.WRONG_REGION),
    ({"sender_id": "lc-2"}, PLACE.topic, MessageRefusal.WRONG_SENDER),
    ({"message_type": "policy.update"}, "pdsno/policy/global", MessageRefusal.WRONG_REGION),
    ({"message_type": "event", "region": "zone-A"}, "pdsno/events/zone-B", MessageRefusal.WRONG_REGION),
    ({"message_type": "status"}, "pdsno/status/rc-1", MessageRefusal.WRONG_SENDER),
])  # fmt: skip
def test_what_does_not_belong_is_refused(
    store: Store, changes: dict[str, object], topic: str, expected: MessageRefusal
) -> None:
    """Each with its own reason."""
    assert refusal(Gate(CODEC, store), CODEC.wrap(report(**changes), topic), topic) is expected


def at(offset: float) -> SignedCodec:
    """A codec whose clock is so many seconds ahead."""
    return SignedCodec(KEYS, now=lambda: time.time() + offset)


@pytest.mark.parametrize(("offset", "expected"), [
    (-310.0, MessageRefusal.EXPIRED), (-290.0, None), (290.0, None), (310.0, MessageRefusal.SKEWED),
])  # fmt: skip
def test_the_time_of_signing_must_be_within_five_minutes(
    store: Store, offset: float, expected: MessageRefusal | None
) -> None:
    """Either way; a report that waited at its sender is signed when it leaves, so its own timestamp may be older."""
    old = report(timestamp=int((time.time() - 10_000) * 1000))
    data = at(offset).wrap(old, PLACE.topic)
    if expected is None:
        assert admit(Gate(CODEC, store), data) is Novelty.NEW
    else:
        assert refusal(Gate(CODEC, store), data) is expected


def test_unsigned_messages_are_as_old_as_they_say(store: Store) -> None:
    """There is no other time than the envelope's."""
    gate = Gate(PlainCodec(), store)
    for offset, expected in ((-310, MessageRefusal.EXPIRED), (310, MessageRefusal.SKEWED)):
        data = PlainCodec().wrap(report(timestamp=int((time.time() + offset) * 1000)), PLACE.topic)
        assert refusal(gate, data) is expected


def test_who_was_away_takes_what_the_broker_kept(store: Store) -> None:
    """From when it was last there, for a while, and each only once."""
    gate = Gate(CODEC, store)
    kept, older = at(-5_000.0).wrap(report(), PLACE.topic), at(-9_000.0).wrap(report(), PLACE.topic)
    assert refusal(gate, kept) is MessageRefusal.EXPIRED
    gate.expect_delayed(time.time() - 6_000.0, 60.0)
    assert admit(gate, kept) is Novelty.NEW
    assert refusal(gate, kept) is MessageRefusal.REPLAYED
    assert refusal(gate, older) is MessageRefusal.EXPIRED
    gate.expect_delayed(time.time() - 6_000.0, 0.0)
    assert refusal(gate, at(-5_000.0).wrap(report(), PLACE.topic)) is MessageRefusal.EXPIRED


@pytest.mark.parametrize(
    "topic", ["pdsno", "pdsno/x/y", "other/discovery/a/b", "pdsno/policy/a/b", "pdsno/discovery/a"]
)
def test_a_topic_that_is_none_of_the_controllers_is_refused(topic: str) -> None:
    """It cannot come by the subscriptions, but it can by HTTP."""
    with pytest.raises(MessageRefused) as caught:
        TOPICS.place(topic)
    assert caught.value.reason is MessageRefusal.WRONG_TOPIC


def test_events_of_the_system_may_be_about_any_region(store: Store) -> None:
    """`events/system` is for everybody."""
    gate = Gate(CODEC, store)
    topic = TOPICS.events()
    opened, seen = gate.open(TOPICS.place(topic), CODEC.wrap(report(message_type="event"), topic), dup=False)
    assert (opened.envelope.region, seen) == ("zone-A", Novelty.NEW)


def test_a_key_of_one_sender_serves_no_other(store: Store) -> None:
    """`owner` binds a key to a sender_id."""
    ring = KeyRing().add(generate("k", owner="lc-9"))
    data = sign(report().to_bytes(), PLACE.topic, ring.keys["k"])
    assert refusal(Gate(SignedCodec(ring), store), data) is MessageRefusal.WRONG_SENDER


def test_without_signatures_the_rest_still_holds(store: Store) -> None:
    """Size, form, freshness and duplicates."""
    codec = PlainCodec(max_bytes=1000)
    gate = Gate(codec, store)
    data = codec.wrap(report(), PLACE.topic)
    assert [admit(gate, data), admit(gate, data)] == [Novelty.NEW, Novelty.SAME]
    large = PlainCodec().wrap(report(payload={"x": "y" * 1000}), PLACE.topic)
    assert refusal(gate, large) is MessageRefusal.TOO_LARGE
    assert refusal(gate, CODEC.wrap(report(), PLACE.topic)) is MessageRefusal.MALFORMED


def test_a_nonce_that_comes_with_other_content_is_an_attack(store: Store) -> None:
    """Two messages never have one nonce by chance."""
    gate = Gate(CODEC, store)
    data = CODEC.wrap(report(), PLACE.topic)
    nonce = CODEC.unwrap(data, PLACE.topic).nonce
    assert nonce is not None
    store.remember_nonce(nonce, b"other content...")
    assert refusal(gate, data, dup=True) is MessageRefusal.CONFLICT


def test_a_refused_message_leaves_nothing_in_the_store(store: Store) -> None:
    """Nonces are kept only after the signature holds, ids only of messages handled."""
    before = store._db.total_changes
    gate = Gate(SignedCodec(KeyRing()), store)
    for _ in range(10):
        refusal(gate, CODEC.wrap(report(), PLACE.topic))
    assert store._db.total_changes == before


@pytest.mark.parametrize(
    ("age", "reason"),
    [(300.0, None), (300.5, MessageRefusal.EXPIRED), (-300.0, None), (-300.5, MessageRefusal.SKEWED)],
)
def test_the_clock_skew_itself_is_allowed(store: Store, age: float, reason: MessageRefusal | None) -> None:
    """Five minutes to either side, and not half a second more."""
    signed_at = 2_000_000_000.0
    gate = Gate(CODEC, store, now=lambda: signed_at + age)
    envelope = report(timestamp=int(signed_at * 1000))
    data = SignedCodec(KEYS, now=lambda: signed_at).wrap(envelope, PLACE.topic)
    if reason is None:
        assert admit(gate, data) is Novelty.NEW
    else:
        assert refusal(gate, data) is reason


@pytest.mark.parametrize(("signed_at", "accepted"), [(1_000_000.0 - 300.0, True), (1_000_000.0 - 301.0, False)])
def test_delayed_messages_are_taken_from_the_skew_before_the_absence_on(
    store: Store, signed_at: float, accepted: bool
) -> None:
    """The sender's clock may be behind ours by the allowed skew."""
    gate = Gate(CODEC, store, now=lambda: 1_009_000.0)
    gate.expect_delayed(1_000_000.0, 60.0)
    envelope = report(timestamp=int(signed_at * 1000))
    data = SignedCodec(KEYS, now=lambda: signed_at).wrap(envelope, PLACE.topic)
    if accepted:
        assert admit(gate, data) is Novelty.NEW
    else:
        assert refusal(gate, data) is MessageRefusal.EXPIRED


def test_the_size_limit_of_unsigned_messages_is_allowed() -> None:
    """As many bytes as the limit says, and not one more."""
    data = report().to_bytes()
    assert PlainCodec(max_bytes=len(data)).unwrap(data, PLACE.topic).envelope.sender_id == "lc-1"
    with pytest.raises(MessageRefused) as caught:
        PlainCodec(max_bytes=len(data) - 1).unwrap(data, PLACE.topic)
    assert caught.value.reason is MessageRefusal.TOO_LARGE


# --- limits, exactly ----------------------------------------------------------------------------------------

NOW = 1_700_000_000.0


def signed_at(moment: float) -> bytes:
    """A new report, signed at this moment."""
    return SignedCodec(KEYS, now=lambda: moment).wrap(report(), PLACE.topic)


@pytest.mark.parametrize(("age", "expected"), [
    (300.0, None), (300.001, MessageRefusal.EXPIRED), (-300.0, None), (-300.001, MessageRefusal.SKEWED),
    (0.0, None), (600.0, MessageRefusal.EXPIRED), (-600.0, MessageRefusal.SKEWED),
])  # fmt: skip
def test_the_clock_skew_is_a_limit_that_still_counts_as_fresh(
    store: Store, age: float, expected: MessageRefusal | None
) -> None:
    """300 s in either direction, to the millisecond; the default of the gate."""
    gate = Gate(CODEC, store, now=lambda: NOW)
    if expected is None:
        assert admit(gate, signed_at(NOW - age)) is Novelty.NEW
    else:
        assert refusal(gate, signed_at(NOW - age)) is expected


@pytest.mark.parametrize(("age", "text"), [(301.0, "301 s old, the limit is 300 s"), (-302.0, "302 s ahead of")])
def test_a_message_that_is_not_fresh_says_by_how_much(store: Store, age: float, text: str) -> None:
    """A positive number of seconds, and the limit."""
    with pytest.raises(MessageRefused, match=text):
        Gate(CODEC, store, now=lambda: NOW).open(PLACE, signed_at(NOW - age), dup=False)


@pytest.mark.parametrize(("sent", "waited", "accepted"), [
    (NOW - 6_300.0, 59.9, True), (NOW - 6_300.001, 59.9, False), (NOW - 6_300.0, 60.0, False),
])  # fmt: skip
def test_the_window_for_delayed_messages_has_two_limits(
    store: Store, sent: float, waited: float, accepted: bool
) -> None:
    """Signed since the controller left, less the clock skew; and received within the given seconds."""
    clock = [50.0]
    gate = Gate(CODEC, store, now=lambda: NOW, monotonic=lambda: clock[0])
    gate.expect_delayed(NOW - 6_000.0, 60.0)
    clock[0] += waited
    if accepted:
        assert admit(gate, signed_at(sent)) is Novelty.NEW
    else:
        assert refusal(gate, signed_at(sent)) is MessageRefusal.EXPIRED


def test_the_window_does_not_let_in_messages_from_the_future(store: Store) -> None:
    """Delayed means old."""
    gate = Gate(CODEC, store, now=lambda: NOW)
    gate.expect_delayed(NOW - 6_000.0, 60.0)
    assert refusal(gate, signed_at(NOW + 301.0)) is MessageRefusal.SKEWED


def test_an_opened_message_says_who_signed_what_and_when() -> None:
    """Digest of the envelope, digest of the signed bytes, nonce, time and key."""
    envelope = report()
    data = SignedCodec(KEYS, now=lambda: NOW).wrap(envelope, PLACE.topic)
    opened = CODEC.unwrap(data, PLACE.topic)
    assert opened.envelope == envelope
    assert opened.digest == hashlib.sha256(envelope.to_bytes()).digest()
    assert opened.signed_digest == hashlib.sha256(data).digest()
    assert (opened.sent_at, opened.key) == (NOW, KEYS.keys["k"])
    assert opened.nonce is not None and len(opened.nonce) == 16
    plain = PlainCodec().unwrap(envelope.to_bytes(), PLACE.topic)
    assert (plain.digest, plain.nonce, plain.key, plain.sent_at) == (opened.digest, None, None, None)
    assert plain.signed_digest == b""


@pytest.mark.parametrize("codec", [SignedCodec, PlainCodec])
def test_the_size_limit_is_the_longest_message_accepted(codec: type) -> None:
    """To the byte, by the sender and by the receiver."""
    make = functools.partial(codec, KEYS, now=lambda: 1_700_000_000.5) if codec is SignedCodec else codec
    envelope = report()
    data = make().wrap(envelope, PLACE.topic)
    exact, smaller = make(max_bytes=len(data)), make(max_bytes=len(data) - 1)
    assert exact.unwrap(data, PLACE.topic).envelope == envelope
    assert exact.wrap(envelope, PLACE.topic)
    for attempt in (lambda: smaller.unwrap(data, PLACE.topic), lambda: smaller.wrap(envelope, PLACE.topic)):
        with pytest.raises(MessageRefused, match=f"{len(data)} bytes, the limit is {len(data) - 1}") as caught:
            attempt()
        assert caught.value.reason is MessageRefusal.TOO_LARGE


@pytest.mark.parametrize(
    ("offset", "accepted"), [(0, True), (30, True), (-30, True), (30.001, False), (-30.001, False)]
)
def test_a_token_is_good_within_the_clock_skew(offset: float, accepted: bool) -> None:
    """In either direction, for the path that it names."""
    token = SignedCodec(KEYS, now=lambda: NOW + offset).sign_request("lc-1", "/v1/messages")
    codec = SignedCodec(KEYS, now=lambda: NOW)
    try:
        codec.check_request(token, "/v1/messages", skew=30.0)
    except MessageRefused as error:
        assert not accepted
        assert error.reason is MessageRefusal.EXPIRED
    else:
        assert accepted


def test_the_identifier_of_the_signing_key(tmp_path: Path) -> None:
    """The active key of the sender; without signatures always the same text, and no token is needed."""
    assert CODEC.signer_id("lc-1") == "k"
    plain = PlainCodec()
    assert (plain.signer_id("a"), plain.sign_request("a", "/x")) == ("unsigned", "")
    assert plain.check_request("", "/x", skew=0.0) is None  # type: ignore[func-returns-value]


def test_a_copy_with_a_new_nonce_is_remembered_too(store: Store) -> None:
    """The second signing of one message is a duplicate once, and a replay after that."""
    gate = Gate(CODEC, store)
    envelope = report()
    first, second = (CODEC.wrap(envelope, PLACE.topic) for _ in range(2))
    assert [admit(gate, first), admit(gate, second)] == [Novelty.NEW, Novelty.SAME]
    assert refusal(gate, second) is MessageRefusal.REPLAYED
    assert store.count() == 1


@pytest.mark.parametrize(("topic", "kind", "region"), [
    ("pdsno/policy/zone-A", "policy.update", "zone-A"), ("pdsno/status/lc-1", "status", "zone-A"),
])  # fmt: skip
def test_state_of_any_age_passes_the_gate_again_and_again(store: Store, topic: str, kind: str, region: str) -> None:
    """The policy book and the status book decide by version and sequence; the gate remembers nothing of it."""
    gate = Gate(CODEC, store, now=lambda: NOW)
    envelope = report(message_type=kind, region=region)
    data = SignedCodec(KEYS, now=lambda: NOW - 10_000).wrap(envelope, topic)
    for _ in range(2):
        opened, novelty = gate.open(TOPICS.place(topic), data, dup=False)
        assert (opened.envelope, novelty) == (envelope, Novelty.NEW)
