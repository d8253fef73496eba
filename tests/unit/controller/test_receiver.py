"""The worker between what comes in and the store."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator

import pytest

from mqttkit.controller import receiver as module
from mqttkit.controller.messages.envelope import Envelope, new_message_id
from mqttkit.controller.messages.topics import Kind, Place, Topics
from mqttkit.controller.receiver import Receiver
from mqttkit.controller.security.gate import Codec, Gate, PlainCodec, SignedCodec
from mqttkit.controller.security.keys import KeyRing, generate
from mqttkit.controller.store import Store
from mqttkit.controller.transports.types import ReceivedMessage
from mqttkit.errors import StoreFailed
from tests.support.controllers import eventually

TOPICS = Topics()
WHERE = TOPICS.events()


class Breaking(Store):
    """A real store whose disk can be made full."""

    full = False
    interrupted = False
    """Another thread makes something last just before, and with it what this one has done so far."""

    def commit(self) -> None:
        """Fail as SQLite does."""
        if self.interrupted:
            self.save_time("online", time.time())
        if self.full:
            raise StoreFailed("the controller's store failed: database or disk is full")
        super().commit()


class Bench:
    """A receiver with a real store in memory, and a handler that may be told to fail."""

    def __init__(self, codec: Codec | None = None) -> None:
        self.codec = codec or PlainCodec()
        self.store = Breaking()
        self.handled: list[str] = []
        self.acknowledged: list[str] = []
        self.receiver = Receiver(
            TOPICS,
            Gate(self.codec, self.store),
            self.store,
            handlers={Kind.EVENT: self.handle},
            on_policy=lambda _: None,
            retries=1,
        )

    def handle(self, _place: Place, envelope: Envelope) -> None:
        """Take an event."""
        self.handled.append(envelope.message_id)

    def deliver(self) -> str:
        """Let an event come in, and return its message_id."""
        name, delivery = self.make()
        self.receiver.take([delivery])
        return name

    def make(self) -> tuple[str, ReceivedMessage]:
        """Return an event's message_id, and the event as a transport gives it."""
        name = new_message_id()
        event = Envelope(
            message_id=name, message_type="event", sender_id="a", region="r", timestamp=int(time.time() * 1000),
            sequence=1,
        )  # fmt: skip
        data = self.codec.wrap(event, WHERE)
        return name, ReceivedMessage(WHERE, data, "test", ack=lambda: self.acknowledged.append(name))


@pytest.fixture
def bench() -> Iterator[Bench]:
    """Closed at the end."""
    made = Bench()
    yield made
    made.receiver.close()
    made.store.close()


def test_a_full_disk_acknowledges_nothing_and_recovers_by_itself(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """What came meanwhile is handled and acknowledged when there is room again, each counted once."""
    monkeypatch.setattr(module, "STORE_SECONDS", 0.05)
    bench.store.full = True
    names = [bench.deliver() for _ in range(3)]
    eventually(lambda: bench.receiver.counters["store_errors"] >= 3)
    assert bench.acknowledged == []
    bench.store.full = False
    eventually(lambda: sorted(bench.acknowledged) == sorted(names))
    assert (bench.receiver.counters["received"], bench.receiver.counters["handled"]) == (3, 3)
    assert bench.store.count() == 3


def test_another_threads_commit_stores_no_unfinished_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise a crash after that commit would lose the message: it would count as a duplicate."""
    monkeypatch.setattr(module, "STORE_SECONDS", 0.05)
    bench = Bench(SignedCodec(KeyRing().add(generate("k1")).activate("k1")))
    bench.store.full = bench.store.interrupted = True
    name = bench.deliver()
    eventually(lambda: bench.receiver.counters["store_errors"] >= 2)
    bench.store.full = False
    eventually(lambda: bench.acknowledged == [name])
    assert set(bench.handled) == {name}
    assert (bench.receiver.counters["handled"], bench.receiver.counters["duplicate"]) == (1, 0)
    assert "refused" not in bench.receiver.counters
    bench.receiver.close()
    bench.store.close()


def test_what_nobody_foresaw_is_a_dead_letter_and_the_thread_lives(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mistake in judging one message does not stop the next."""
    monkeypatch.setattr(bench.receiver._gate, "judge", lambda *_, **__: 1 / 0)
    lost = bench.deliver()
    eventually(lambda: bench.acknowledged == [lost])
    monkeypatch.undo()
    name = bench.deliver()
    eventually(lambda: bench.handled == [name])
    assert [reason for _, _, reason in bench.store.dead_letters()] == ["ZeroDivisionError: division by zero"]
    assert bench.receiver.counters["dead_lettered"] == 1


def test_a_full_inbox_drops_and_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not acknowledged, so the broker sends it again after a reconnect."""
    monkeypatch.setattr(module, "INBOX", 2)
    bench, entered, release = Bench(), threading.Event(), threading.Event()

    def hold(_place: Place, _envelope: Envelope) -> None:
        entered.set()
        release.wait(60)

    bench.receiver._handlers = {Kind.EVENT: hold}
    bench.deliver()
    assert entered.wait(60)
    for _ in range(5):
        bench.deliver()
    assert bench.receiver.counters["overflow"] == 3
    release.set()
    eventually(lambda: len(bench.acknowledged) == 3)
    bench.receiver.close()
    bench.store.close()


def test_an_empty_message_is_no_message(bench: Bench) -> None:
    """It clears what was retained; there is nothing to judge."""
    done: list[bool] = []
    bench.receiver.take([ReceivedMessage(WHERE, b"", "test", ack=lambda: done.append(True))])
    eventually(lambda: done == [True])
    assert not bench.receiver.counters


@pytest.mark.parametrize("mistake", [RuntimeError("no \ud800 text"), SystemExit(3), RecursionError()])
def test_nothing_that_a_handler_raises_ends_the_thread(bench: Bench, mistake: BaseException) -> None:
    """Not what threads swallow without a word, nor what SQLite takes for no text: a dead letter, counted once."""

    def fail(_place: Place, _envelope: Envelope) -> None:
        raise mistake

    bench.receiver._handlers = {Kind.EVENT: fail}
    lost = bench.deliver()
    eventually(lambda: bench.acknowledged == [lost])
    bench.receiver._handlers = {Kind.EVENT: bench.handle}
    name = bench.deliver()
    eventually(lambda: bench.acknowledged == [lost, name])
    ((_, _, reason),) = bench.store.dead_letters()
    assert reason.startswith(type(mistake).__name__)
    assert (bench.receiver.counters["dead_lettered"], bench.handled) == (1, [name])


def test_an_acknowledgement_that_fails_ends_nothing(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    """It is logged; the next message is handled and acknowledged."""
    bench.receiver.take([ReceivedMessage(WHERE, b"", "test", ack=lambda: 1 / 0)])
    name = bench.deliver()
    eventually(lambda: bench.acknowledged == [name])
    assert "cannot acknowledge a message" in caplog.text


def test_what_found_no_room_stays_counted_while_the_store_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch that is tried again takes back its own counters only."""
    monkeypatch.setattr(module, "STORE_SECONDS", 0.05)
    monkeypatch.setattr(module, "INBOX", 1)
    bench = Bench()
    bench.store.full = True
    bench.deliver()
    eventually(lambda: bench.receiver.counters["store_errors"] >= 1)
    for _ in range(4):
        bench.deliver()
    before = bench.receiver.counters["store_errors"]
    eventually(lambda: bench.receiver.counters["store_errors"] >= before + 2)
    bench.store.full = False
    eventually(lambda: len(bench.acknowledged) == 2)
    assert (bench.receiver.counters["overflow"], bench.receiver.counters["received"]) == (3, 2)
    bench.receiver.close()
    bench.store.close()


def test_another_threads_failure_undoes_nothing_of_a_batch(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite may roll a whole transaction back; what a batch remembers is written by its own commit."""
    monkeypatch.setattr(module, "STORE_SECONDS", 0.05)
    store = bench.store

    def undo(place: Place, envelope: Envelope) -> None:
        bench.handle(place, envelope)
        if len(bench.handled) == 2:
            with pytest.raises(StoreFailed), store._alone():
                store._db.rollback()
                raise sqlite3.OperationalError("disk I/O error")

    bench.receiver._handlers = {Kind.EVENT: undo}
    names, batch = zip(*(bench.make() for _ in range(2)), strict=True)
    bench.receiver._process_batch(list(batch))
    assert bench.acknowledged == list(names)
    assert bench.handled == [*names]
    assert bench.store.count() == 2
    assert (store.count(), bench.receiver.counters["handled"]) == (2, 2)
