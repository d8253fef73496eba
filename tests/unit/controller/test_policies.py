"""Policies: versions, expiry, and their form."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from mqttkit.controller.messages.envelope import Envelope, new_message_id
from mqttkit.controller.messages.refusals import MessageRefusal, MessageRefused
from mqttkit.controller.messages.topics import Topics
from mqttkit.controller.policies import Policy, PolicyBook
from mqttkit.controller.security.gate import Gate, OpenedMessage, SignedCodec
from mqttkit.controller.security.keys import KeyRing, generate
from mqttkit.controller.store import Novelty, Store

TOPICS = Topics()


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


def opened(version: object = 1, *, age: float = 0, expires: object = None, **rules: object) -> OpenedMessage:
    """A policy message as the gate gives it."""
    envelope = report(
        message_type="policy.update",
        timestamp=int((time.time() - age) * 1000),
        payload={"version": version, "rules": rules, "expires": expires},
    )
    topic = TOPICS.policy("zone-A")
    return CODEC.unwrap(CODEC.wrap(envelope, topic), topic)


def take(book: PolicyBook, message: OpenedMessage) -> Novelty:
    """Judge a policy, and put it in force where it is new."""
    policy, seen = book.judge("zone-A", message)
    if seen is Novelty.NEW:
        book.put(policy)
    return seen


def test_an_older_policy_never_replaces_a_newer_one(store: Store) -> None:
    """In whatever order they come."""
    book = PolicyBook(store)
    messages = {version: opened(version, level=version) for version in (3, 1, 5, 2, 5, 4)}
    for version in (3, 1, 5, 2, 5, 4):
        try:
            take(book, messages[version])
        except MessageRefused as error:
            assert (error.reason, version) in (
                (MessageRefusal.STALE, 1),
                (MessageRefusal.STALE, 2),
                (MessageRefusal.STALE, 4),
            )
    assert book.current("zone-A") == Policy("zone-A", 5, {"level": 5})
    assert book.current("zone-B") is None


def test_a_retained_policy_may_be_days_old_and_come_again(store: Store) -> None:
    """Version and end decide, not age and nonce."""
    book = PolicyBook(store)
    message = opened(age=1e6)
    data = CODEC.wrap(message.envelope, TOPICS.policy("zone-A"))
    gate = Gate(CODEC, store)
    assert [take(book, gate.open(TOPICS.place(TOPICS.policy("zone-A")), data, dup=False)[0]) for _ in range(2)] == [
        Novelty.NEW,
        Novelty.SAME,
    ]


def test_one_version_with_two_contents_is_an_attack(store: Store) -> None:
    """The first stays in force."""
    book = PolicyBook(store)
    take(book, opened(1, a=1))
    with pytest.raises(MessageRefused) as caught:
        take(book, opened(1, a=2))
    assert caught.value.reason is MessageRefusal.CONFLICT
    assert book.current("zone-A") == Policy("zone-A", 1, {"a": 1})


def test_a_policy_past_its_end_is_not_taken_up_and_ends(store: Store) -> None:
    """Its end is milliseconds since the epoch."""
    clock = [1_000.0]
    book = PolicyBook(store, now=lambda: clock[0])
    take(book, opened(1, expires=1_001_000))
    assert book.current("zone-A") is not None
    clock[0] = 1_001.0
    assert book.current("zone-A") is None
    with pytest.raises(MessageRefused) as caught:
        take(book, opened(2, expires=1_001_000))
    assert caught.value.reason is MessageRefusal.EXPIRED


@pytest.mark.parametrize("payload", [
    {}, {"version": "1", "rules": {}}, {"version": 0, "rules": {}}, {"version": True, "rules": {}},
    {"version": 1, "rules": []}, {"version": 1, "rules": {}, "expires": "never"},
])  # fmt: skip
def test_a_policy_of_another_shape_is_malformed(store: Store, payload: dict[str, object]) -> None:
    """And not put in force."""
    message = OpenedMessage(report(message_type="policy.update", payload=payload), b"d" * 32, None)
    with pytest.raises(MessageRefused) as caught:
        PolicyBook(store).judge("zone-A", message)
    assert caught.value.reason is MessageRefusal.MALFORMED
