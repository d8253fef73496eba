"""What the gate lets in, and what the store remembers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mqttkit.controller.messages.envelope import Envelope, new_message_id
from mqttkit.controller.messages.refusals import MessageRefused, Reason
from mqttkit.controller.messages.topics import Topics
from mqttkit.controller.policies import Policy, PolicyBook
from mqttkit.controller.security.gate import Gate, Opened, PlainCodec, SignedCodec
from mqttkit.controller.security.keys import KeyRing, generate
from mqttkit.controller.store import Seen, Store
from mqttkit.errors import MqttkitError

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


def refusal(gate: Gate, data: bytes, topic: str = PLACE.topic, *, dup: bool = False) -> Reason:
    """Return why the gate refuses."""
    with pytest.raises(MessageRefused) as caught:
        gate.open(TOPICS.place(topic), data, dup=dup)
    return caught.value.reason


def admit(gate: Gate, data: bytes, *, dup: bool = False) -> Seen:
    """Let a message in as a controller does."""
    opened, seen = gate.open(PLACE, data, dup=dup)
    gate.admit(opened, seen)
    return seen


def test_a_redelivery_is_a_duplicate_and_a_replay_is_refused(store: Store) -> None:
    """The same bytes: with the DUP flag the broker sends them again, without it somebody published them again."""
    gate = Gate(CODEC, store)
    data = CODEC.wrap(report(), PLACE.topic)
    assert admit(gate, data) is Seen.NEW
    assert admit(gate, data, dup=True) is Seen.SAME
    assert refusal(gate, data) is Reason.REPLAYED


def test_a_message_sent_anew_is_a_duplicate(store: Store) -> None:
    """Another way, or another try of the sender: signed again, the same message_id and content."""
    gate = Gate(CODEC, store)
    envelope = report()
    assert [admit(gate, CODEC.wrap(envelope, PLACE.topic)) for _ in range(3)] == [Seen.NEW, Seen.SAME, Seen.SAME]


def test_one_message_id_with_other_content_is_an_attack(store: Store) -> None:
    """Even where the signature holds."""
    gate = Gate(CODEC, store)
    first = report()
    admit(gate, CODEC.wrap(first, PLACE.topic))
    changed = report(message_id=first.message_id, payload={"devices": [1]})
    assert refusal(gate, CODEC.wrap(changed, PLACE.topic)) is Reason.CONFLICT


def test_a_crash_before_the_commit_lets_the_message_in_again(tmp_path: Path) -> None:
    """And after it not; nonces live through a restart as well."""
    data = CODEC.wrap(report(), PLACE.topic)
    path = tmp_path / "state" / "store.db"
    crashed = Store(path)
    admit(Gate(CODEC, crashed), data)
    crashed._db.rollback()
    crashed._db.close()
    second = Store(path)
    assert admit(Gate(CODEC, second), data) is Seen.NEW
    second.close()
    third = Store(path)
    assert refusal(Gate(CODEC, third), data) is Reason.REPLAYED
    assert admit(Gate(CODEC, third), data, dup=True) is Seen.SAME
    third.close()


@pytest.mark.parametrize(("changes", "topic", "expected"), [
    ({"message_type": "gossip"}, PLACE.topic, Reason.UNKNOWN_TYPE),
    ({"message_type": "event"}, PLACE.topic, Reason.UNKNOWN_TYPE),
    ({"region": "zone-B"}, PLACE.topic, Reason.WRONG_REGION),
    ({"sender_id": "lc-2"}, PLACE.topic, Reason.WRONG_SENDER),
    ({"message_type": "policy.update"}, "pdsno/policy/global", Reason.WRONG_REGION),
    ({"message_type": "event", "region": "zone-A"}, "pdsno/events/zone-B", Reason.WRONG_REGION),
    ({"message_type": "status"}, "pdsno/status/rc-1", Reason.WRONG_SENDER),
])  # fmt: skip
def test_what_does_not_belong_is_refused(
    store: Store, changes: dict[str, object], topic: str, expected: Reason
) -> None:
    """Each with its own reason."""
    assert refusal(Gate(CODEC, store), CODEC.wrap(report(**changes), topic), topic) is expected


def at(offset: float) -> SignedCodec:
    """A codec whose clock is so many seconds ahead."""
    return SignedCodec(KEYS, now=lambda: time.time() + offset)


@pytest.mark.parametrize(("offset", "expected"), [
    (-310.0, Reason.EXPIRED), (-290.0, None), (290.0, None), (310.0, Reason.SKEWED),
])  # fmt: skip
def test_the_time_of_signing_must_be_within_five_minutes(store: Store, offset: float, expected: Reason | None) -> None:
    """Either way; a report that waited at its sender is signed when it leaves, so its own timestamp may be older."""
    old = report(timestamp=int((time.time() - 10_000) * 1000))
    data = at(offset).wrap(old, PLACE.topic)
    if expected is None:
        assert admit(Gate(CODEC, store), data) is Seen.NEW
    else:
        assert refusal(Gate(CODEC, store), data) is expected


def test_unsigned_messages_are_as_old_as_they_say(store: Store) -> None:
    """There is no other time than the envelope's."""
    gate = Gate(PlainCodec(), store)
    for offset, expected in ((-310, Reason.EXPIRED), (310, Reason.SKEWED)):
        data = PlainCodec().wrap(report(timestamp=int((time.time() + offset) * 1000)), PLACE.topic)
        assert refusal(gate, data) is expected


def test_who_was_away_takes_what_the_broker_kept(store: Store) -> None:
    """From when it was last there, for a while, and each only once."""
    gate = Gate(CODEC, store)
    kept, older = at(-5_000.0).wrap(report(), PLACE.topic), at(-9_000.0).wrap(report(), PLACE.topic)
    assert refusal(gate, kept) is Reason.EXPIRED
    gate.expect_delayed(time.time() - 6_000.0, 60.0)
    assert admit(gate, kept) is Seen.NEW
    assert refusal(gate, kept) is Reason.REPLAYED
    assert refusal(gate, older) is Reason.EXPIRED
    gate.expect_delayed(time.time() - 6_000.0, 0.0)
    assert refusal(gate, at(-5_000.0).wrap(report(), PLACE.topic)) is Reason.EXPIRED


@pytest.mark.parametrize(
    "topic", ["pdsno", "pdsno/x/y", "other/discovery/a/b", "pdsno/policy/a/b", "pdsno/discovery/a"]
)
def test_a_topic_that_is_none_of_the_controllers_is_refused(topic: str) -> None:
    """It cannot come by the subscriptions, but it can by HTTP."""
    with pytest.raises(MessageRefused) as caught:
        TOPICS.place(topic)
    assert caught.value.reason is Reason.WRONG_TOPIC


def test_events_of_the_system_may_be_about_any_region(store: Store) -> None:
    """`events/system` is for everybody."""
    gate = Gate(CODEC, store)
    topic = TOPICS.events()
    opened, seen = gate.open(TOPICS.place(topic), CODEC.wrap(report(message_type="event"), topic), dup=False)
    assert (opened.envelope.region, seen) == ("zone-A", Seen.NEW)


def test_a_key_of_one_sender_serves_no_other(store: Store) -> None:
    """`owner` binds a key to a sender_id."""
    codec = SignedCodec(KeyRing().add(generate("k", owner="lc-9")).activate("k"))
    assert refusal(Gate(codec, store), codec.wrap(report(), PLACE.topic)) is Reason.WRONG_SENDER


def test_without_signatures_the_rest_still_holds(store: Store) -> None:
    """Size, form, freshness and duplicates."""
    codec = PlainCodec(max_bytes=1000)
    gate = Gate(codec, store)
    data = codec.wrap(report(), PLACE.topic)
    assert [admit(gate, data), admit(gate, data)] == [Seen.NEW, Seen.SAME]
    assert refusal(gate, codec.wrap(report(payload={"x": "y" * 1000}), PLACE.topic)) is Reason.TOO_LARGE
    assert refusal(gate, CODEC.wrap(report(), PLACE.topic)) is Reason.MALFORMED


def test_a_nonce_that_comes_with_other_content_is_an_attack(store: Store) -> None:
    """Two messages never have one nonce by chance."""
    gate = Gate(CODEC, store)
    data = CODEC.wrap(report(), PLACE.topic)
    nonce = CODEC.unwrap(data, PLACE.topic).nonce
    assert nonce is not None
    store.remember_nonce(nonce, b"other content...")
    assert refusal(gate, data, dup=True) is Reason.CONFLICT


def test_a_refused_message_leaves_nothing_in_the_store(store: Store) -> None:
    """Nonces are kept only after the signature holds, ids only of messages handled."""
    before = store._db.total_changes
    gate = Gate(SignedCodec(KeyRing()), store)
    for _ in range(10):
        refusal(gate, CODEC.wrap(report(), PLACE.topic))
    assert store._db.total_changes == before


# --- the store ----------------------------------------------------------------------------------------------


def test_the_oldest_ids_are_forgotten_first(store: Store) -> None:
    """The bound holds within its slack, and what is newest stays."""
    store.max_ids = 3_000
    ids = [new_message_id(number) for number in range(8_000)]
    for number, message_id in enumerate(ids):
        store.remember(message_id, b"d" * 16)
        if number % 100 == 99:
            store.commit()
    assert 3_000 <= store.count() <= 4_000
    assert store.look_up(ids[-3_000], b"d" * 16) is Seen.SAME
    assert store.look_up(ids[0], b"d" * 16) is Seen.NEW


def test_nonces_are_forgotten_when_no_fresh_message_can_have_them(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By their age."""
    clock = [1_000_000.0]
    monkeypatch.setattr("mqttkit.controller.store.time.time", lambda: clock[0])
    for number in range(1_000):
        store.remember_nonce(number.to_bytes(16, "big"), b"d" * 16)
    clock[0] += store.nonce_seconds + 1
    for number in range(1_000, 2_000):
        store.remember_nonce(number.to_bytes(16, "big"), b"d" * 16)
    store.commit()
    known = [store.look_up_nonce(number.to_bytes(16, "big"), b"d" * 16) for number in range(2_000)]
    assert known == [Seen.NEW] * 1_000 + [Seen.SAME] * 1_000


def test_numbers_never_come_twice(tmp_path: Path) -> None:
    """Not after a crash either: a crash may skip some."""
    path = tmp_path / "store.db"
    taken: list[int] = []
    for _ in range(3):
        crashed = Store(path)
        taken += [crashed.next_number("sequence") for _ in range(1_500)]
        crashed._db.rollback()
        crashed._db.close()
    assert taken == sorted(set(taken))
    assert taken[0] == 1


def test_threads_take_numbers_and_note_moments_while_another_commits(tmp_path: Path) -> None:
    """Nothing fails and no number comes twice: a heartbeat and a publisher beside the worker."""
    store = Store(tmp_path / "store.db")

    def publish(_: int) -> list[int]:
        taken = []
        for _ in range(400):
            taken.append(store.next_number("sequence"))
            store.note_moment("online", 1.0)
        return taken

    def work(_: int) -> list[int]:
        for _ in range(400):
            store.remember(new_message_id(), b"d" * 16)
            store.commit()
        return []

    with ThreadPoolExecutor(3) as pool:
        running = [pool.submit(task, number) for number, task in enumerate((publish, publish, work))]
        taken = [number for one in running for number in one.result(60)]
    assert sorted(taken) == list(range(1, 801))
    assert store.count() == 400
    store.close()


def test_dead_letters_are_bounded(store: Store) -> None:
    """The oldest make room."""
    store.max_dead = 3
    for number in range(5):
        store.bury("t", bytes([number]), "r")
    assert [data for _, data, _ in store.dead_letters()] == [b"\2", b"\3", b"\4"]


def test_a_store_that_is_no_database_is_one_clear_error(tmp_path: Path) -> None:
    """The file is named."""
    path = tmp_path / "store.db"
    path.write_bytes(b"not a database, whatever else it may be" * 100)
    with pytest.raises(MqttkitError, match=r"cannot open the controller's store .*store\.db"):
        Store(path)


KILLED = """
import sys
from pathlib import Path
from mqttkit.controller.store import Store
from mqttkit.controller.messages.envelope import new_message_id
store = Store(Path(sys.argv[1]))
while True:
    batch = [new_message_id() for _ in range(20)]
    for message_id in batch:
        store.remember(message_id, b"d" * 16)
    store.commit()
    print("\\n".join(batch), flush=True)
"""


def test_the_store_knows_every_committed_id_after_a_kill(tmp_path: Path) -> None:
    """Killed with SIGKILL in mid-transaction, three times: what was acknowledged is known, nothing is damaged."""
    path = tmp_path / "store.db"
    committed: list[str] = []
    for _ in range(3):
        with subprocess.Popen([sys.executable, "-c", KILLED, str(path)], stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            committed += [process.stdout.readline().strip() for _ in range(200)]
            os.kill(process.pid, signal.SIGKILL)
            process.wait(10)
    survivor = Store(path)
    assert all(survivor.look_up(message_id, b"d" * 16) is Seen.SAME for message_id in committed)
    assert survivor._db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    survivor.close()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), st.sampled_from(["handle", "commit", "crash"])), max_size=40))
def test_each_message_counts_once_whatever_crashes(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[int, str]]
) -> None:
    """The invariant: what was committed is a duplicate for ever, what was not is new again."""
    path = tmp_path_factory.mktemp("store") / "store.db"
    ids = [new_message_id(number) for number in range(10)]
    store, committed, pending = Store(path), set[int](), set[int]()
    for number, step in steps:
        if step == "handle":
            seen = store.look_up(ids[number], b"d" * 16)
            assert (seen is Seen.SAME) == (number in committed | pending)
            if seen is Seen.NEW:
                store.remember(ids[number], b"d" * 16)
                pending.add(number)
        elif step == "commit":
            store.commit()
            committed |= pending
            pending.clear()
        else:
            store._db.rollback()
            store._db.close()
            store = Store(path)
            pending.clear()
    store.close()


# --- policies -----------------------------------------------------------------------------------------------


def opened(version: object = 1, *, age: float = 0, expires: object = None, **rules: object) -> Opened:
    """A policy message as the gate gives it."""
    envelope = report(
        message_type="policy.update",
        timestamp=int((time.time() - age) * 1000),
        payload={"version": version, "rules": rules, "expires": expires},
    )
    topic = TOPICS.policy("zone-A")
    return CODEC.unwrap(CODEC.wrap(envelope, topic), topic)


def take(book: PolicyBook, message: Opened) -> Seen:
    """Judge a policy, and put it in force where it is new."""
    policy, seen = book.judge("zone-A", message)
    if seen is Seen.NEW:
        book.put(policy, message)
    return seen


def test_an_older_policy_never_replaces_a_newer_one(store: Store) -> None:
    """In whatever order they come."""
    book = PolicyBook(store)
    messages = {version: opened(version, level=version) for version in (3, 1, 5, 2, 5, 4)}
    for version in (3, 1, 5, 2, 5, 4):
        try:
            take(book, messages[version])
        except MessageRefused as error:
            assert (error.reason, version) in ((Reason.STALE, 1), (Reason.STALE, 2), (Reason.STALE, 4))
    assert book.current("zone-A") == Policy("zone-A", 5, {"level": 5})
    assert book.current("zone-B") is None


def test_a_retained_policy_may_be_days_old_and_come_again(store: Store) -> None:
    """Version and end decide, not age and nonce."""
    book = PolicyBook(store)
    message = opened(age=1e6)
    data = CODEC.wrap(message.envelope, TOPICS.policy("zone-A"))
    gate = Gate(CODEC, store)
    assert [take(book, gate.open(TOPICS.place(TOPICS.policy("zone-A")), data, dup=False)[0]) for _ in range(2)] == [
        Seen.NEW,
        Seen.SAME,
    ]


def test_one_version_with_two_contents_is_an_attack(store: Store) -> None:
    """The first stays in force."""
    book = PolicyBook(store)
    take(book, opened(1, a=1))
    with pytest.raises(MessageRefused) as caught:
        take(book, opened(1, a=2))
    assert caught.value.reason is Reason.CONFLICT
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
    assert caught.value.reason is Reason.EXPIRED


@pytest.mark.parametrize("payload", [
    {}, {"version": "1", "rules": {}}, {"version": 0, "rules": {}}, {"version": True, "rules": {}},
    {"version": 1, "rules": []}, {"version": 1, "rules": {}, "expires": "never"},
])  # fmt: skip
def test_a_policy_of_another_shape_is_malformed(store: Store, payload: dict[str, object]) -> None:
    """And not put in force."""
    message = Opened(report(message_type="policy.update", payload=payload), b"d" * 32, None)
    with pytest.raises(MessageRefused) as caught:
        PolicyBook(store).judge("zone-A", message)
    assert caught.value.reason is Reason.MALFORMED
