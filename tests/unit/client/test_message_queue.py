"""The queue between the network thread and the reader."""

from __future__ import annotations

import threading
import time

import pytest

from mqttkit.client.message_queue import MessageQueue
from mqttkit.messages import Message, Properties


def message(payload: bytes = b"", topic: str = "t", *, retain: bool = False) -> Message:
    """Return a message."""
    return Message(topic, payload, retain=retain)


def test_batches_come_out_in_order_with_their_time() -> None:
    """A batch carries the wall-clock time at which it came."""
    waiting = MessageQueue(lambda level: None)
    before = time.time_ns()
    waiting.put([message(b"1"), message(b"2")])
    waiting.put([message(b"3")])
    first, second = waiting.get(), waiting.get()
    assert first is not None and second is not None
    assert [each.payload for each in (*first.messages, *second.messages)] == [b"1", b"2", b"3"]
    assert before <= first.received_at <= second.received_at <= time.time_ns()
    assert waiting.empty


def test_get_returns_none_after_its_time_and_when_woken() -> None:
    """A reader waits no longer than it said, and somebody may wake it."""
    waiting = MessageQueue(lambda level: None)
    assert waiting.get(0.01) is None
    waker = threading.Timer(0.05, waiting.wake)
    waker.start()
    assert waiting.get(600) is None
    waker.join()


@pytest.mark.parametrize(("count", "size", "payload"), [(10, 1_000_000, b""), (1_000_000, 10, b"x")])
def test_reading_pauses_at_the_bound_and_resumes_at_half_of_it(count: int, size: int, payload: bytes) -> None:
    """Messages and bytes are bounded, each by itself."""
    calls: list[int] = []
    waiting = MessageQueue(calls.append, messages=count, size=size)
    assert waiting.get(0) is None
    for _ in range(9):
        waiting.put([message(payload, topic="")])
    assert calls == []
    waiting.put([message(payload, topic="")])
    waiting.put([message(payload, topic="")])
    assert calls == [1]
    for _ in range(6):
        waiting.get()
    assert calls == [1]
    waiting.get()
    assert calls == [1, 0]


def test_a_full_queue_holds_before_somebody_reads_and_still_lets_answers_in() -> None:
    """Level 1 reads on for a SUBACK; at four times the bound nothing is read."""
    calls: list[int] = []
    waiting = MessageQueue(calls.append, messages=2)
    for expected in ([], [1], [1], [1], [1], [1], [1], [1, 2]):
        waiting.put([message()])
        assert calls == expected
    for _ in range(8):
        waiting.get()
    assert calls == [1, 2, 1, 0]


def test_topic_names_and_properties_count() -> None:
    """A topic name may have 65 kB, and so may each text of the properties."""
    properties = Properties(content_type="x" * 30, user_properties=(("a" * 10, "b" * 10),) * 2)
    for each in (message(topic="t" * 100), message()._replace(properties=properties)):
        calls: list[int] = []
        MessageQueue(calls.append, size=70).put([each])
        assert calls == [1]


def test_a_reader_and_a_flood_never_stop_each_other() -> None:
    """However pause and resume race, everything comes through, and the bound holds but for one batch."""
    reading = threading.Event()
    reading.set()
    waiting = MessageQueue(lambda level: (reading.clear if level else reading.set)(), messages=50)

    def flood() -> None:
        for number in range(20_000):
            assert reading.wait(60)
            waiting.put([message(b"%d" % number)])

    thread = threading.Thread(target=flood)
    thread.start()
    for number in range(20_000):
        batch = waiting.get(60)
        assert batch is not None and batch.messages[0].payload == b"%d" % number
    thread.join()


def test_retained_messages_are_counted() -> None:
    """The count tells when the broker has sent them all."""
    waiting = MessageQueue(lambda level: None)
    waiting.put([message(retain=True), message(), message(retain=True)])
    assert waiting.retained == 2


def test_a_queue_that_ends_gives_what_waits_then_none() -> None:
    """`get` never blocks after the end, however often it is called."""
    waiting = MessageQueue(lambda level: None)
    waiting.put([message(b"1")])
    waiting.end()
    batch = waiting.get()
    assert batch is not None and batch.messages[0].payload == b"1"
    assert [waiting.get(), waiting.get(), waiting.get()] == [None, None, None]
    assert waiting.error is None


def test_the_first_error_of_an_end_is_kept() -> None:
    """The end that follows from the error does not replace it."""
    waiting, error = MessageQueue(lambda level: None), ValueError("x")
    for each in (error, None, ValueError("y")):
        waiting.end(each)
    assert waiting.error is error


def test_the_end_wakes_a_reader_that_waits() -> None:
    """A reader without a time limit returns."""
    waiting = MessageQueue(lambda level: None)
    ender = threading.Timer(0.05, waiting.end)
    ender.start()
    assert waiting.get() is None
    ender.join()
