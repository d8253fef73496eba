"""The queue between network thread and reader, and which messages are handed on."""

from __future__ import annotations

import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqttkit.messages import Message
from mqttkit.subscriber import Inbox, Selection, select
from mqttkit.topics import matches
from tests.support.strategies import messages


def message(payload: bytes = b"", topic: str = "t", *, retain: bool = False) -> Message:
    """Return a message."""
    return Message(topic, payload, retain=retain)


def test_batches_come_out_in_order_with_their_time() -> None:
    """A batch carries the wall-clock time at which it came."""
    inbox = Inbox(100, 100, lambda paused: None)
    before = time.time_ns()
    inbox.put([message(b"1"), message(b"2")])
    inbox.put([message(b"3")])
    first, second = inbox.get(), inbox.get()
    assert first is not None and second is not None
    assert [each.payload for each in (*first.messages, *second.messages)] == [b"1", b"2", b"3"]
    assert before <= first.when <= second.when <= time.time_ns()
    assert inbox.empty


def test_get_returns_none_after_its_time_and_when_woken() -> None:
    """A reader waits no longer than it said, and somebody may wake it."""
    inbox = Inbox(100, 100, lambda paused: None)
    assert inbox.get(0.01) is None
    waker = threading.Timer(0.05, inbox.wake)
    waker.start()
    assert inbox.get(20) is None
    waker.join()


@pytest.mark.parametrize(("count", "size", "payload"), [(10, 1_000_000, b""), (1_000_000, 10, b"x")])
def test_reading_pauses_at_the_bound_and_resumes_at_half_of_it(count: int, size: int, payload: bytes) -> None:
    """Messages and bytes are bounded, each by itself."""
    calls: list[bool] = []
    inbox = Inbox(count, size, calls.append)
    assert inbox.get(0) is None
    for _ in range(9):
        inbox.put([message(payload)])
    assert calls == []
    inbox.put([message(payload)])
    inbox.put([message(payload)])
    assert calls == [True]
    for _ in range(6):
        inbox.get()
    assert calls == [True]
    inbox.get()
    assert calls == [True, False]


def test_nothing_pauses_before_somebody_reads() -> None:
    """What comes before the SUBACK must not keep the SUBACK from coming."""
    calls: list[bool] = []
    inbox = Inbox(2, 1000, calls.append)
    for _ in range(8):
        inbox.put([message()])
    assert calls == []
    inbox.get()
    assert calls == [True]


def test_a_reader_and_a_flood_never_stop_each_other() -> None:
    """However pause and resume race, everything comes through, and the bound holds but for one batch."""
    reading = threading.Event()
    reading.set()
    inbox = Inbox(50, 1 << 20, lambda paused: (reading.clear if paused else reading.set)())

    def flood() -> None:
        for number in range(20_000):
            assert reading.wait(20)
            inbox.put([message(b"%d" % number)])

    thread = threading.Thread(target=flood)
    thread.start()
    for number in range(20_000):
        batch = inbox.get(20)
        assert batch is not None and batch.messages[0].payload == b"%d" % number
    thread.join()


def test_retained_messages_are_counted() -> None:
    """The count tells when the broker has sent them all."""
    inbox = Inbox(100, 100, lambda paused: None)
    inbox.put([message(retain=True), message(), message(retain=True)])
    assert inbox.retained == 2


filters = st.sampled_from(["a", "a/b", "a/#", "+/b", "#", "x/+", "é"])
names = st.sampled_from(["a", "a/b", "x/y", "$SYS/x", "é", "a/b/c"])
selections = st.builds(
    Selection,
    retained_only=st.booleans(),
    skip_retained=st.booleans(),
    exclude=st.lists(filters, max_size=2).map(tuple),
)


@given(selections, st.lists(messages.flatmap(lambda each: names.map(lambda name: each._replace(topic=name)))))
def test_selection_is_what_its_fields_say(selection: Selection, batch: list[Message]) -> None:
    """Each message is judged by itself, and the order is kept."""
    wanted = [
        each
        for each in batch
        if (each.retain or not selection.retained_only)
        and not (each.retain and selection.skip_retained)
        and not any(matches(exclude, each.topic) for exclude in selection.exclude)
    ]
    assert list(select(selection)(batch)) == wanted


def test_exclusion_remembers_only_so_many_topics() -> None:
    """A million different topics are judged right, and forgotten."""
    chosen = select(Selection(exclude=("no/#",)))
    for start in range(0, 20_000, 1000):
        batch = [message(topic=f"{'no' if number % 2 else 'yes'}/{number}") for number in range(start, start + 1000)]
        assert [each.topic[:3] for each in chosen(batch)] == ["yes"] * 500
