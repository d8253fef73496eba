"""What `watch` makes of heartbeats."""

from __future__ import annotations

import io
import threading
import time

import pytest
from rich.console import Console

from mqttkit.cli.controller.live_table import table
from mqttkit.controller.messages.envelope import Envelope, new_message_id
from mqttkit.controller.messages.topics import Topics
from mqttkit.controller.security.gate import PlainCodec
from mqttkit.controller.status_book import StatusBook


def test_a_heartbeat_of_odd_content_is_shown_and_ends_nothing() -> None:
    """Whoever may publish may write anything there: it must not end the table of those who watch."""
    from mqttkit.cli.controller.live_table import cells

    codec, topics = PlainCodec(), Topics()
    book = StatusBook(topics, codec)
    odd = {
        **{"state": "online", "incarnation": "i", "heartbeat_interval": "often", "counters": [], "sent": {"mqtt": "x"}},
        **{"transport": 5, "hops": None, "policies": "none", "role": ["local"]},
    }
    where = topics.status("lc-1")
    now = time.time_ns() // 1_000_000
    beat = Envelope(
        message_id=new_message_id(), message_type="status", sender_id="lc-1", region="zone-A", timestamp=now,
        sequence=1, payload=odd,
    )  # fmt: skip
    assert book.note(where, codec.wrap(beat, where)) is not None
    (row,) = book.rows()
    assert (row["status"], row["reports"], row["hops"], row["policies"]) == ("online", 0, 0, {})
    assert cells(row)[:4] == ["lc-1", "['local']", "?", "online"]


@pytest.mark.parametrize("width", [120, 80, 60])
def test_the_table_fits_the_terminal(width: int) -> None:
    """Controllers, status and last heartbeat stay; a line counts the controllers without room."""
    codec, topics = PlainCodec(), Topics()
    book = StatusBook(topics, codec)
    for number in range(12):
        name = f"local_cntl_zone-A_{number:03}"
        payload = {
            "state": "online",
            "incarnation": "i",
            "transport": "mqtt",
            "role": "local",
            "policies": {"global": 4, "zone-A": 12},
        }
        beat = Envelope(
            message_id=new_message_id(), message_type="status", sender_id=name, region="zone-A",
            timestamp=time.time_ns() // 1_000_000, sequence=1, payload=payload,
        )  # fmt: skip
        book.note(topics.status(name), codec.wrap(beat, topics.status(name)))
    console = Console(file=io.StringIO(), width=width, color_system=None)
    with console.capture() as capture:
        console.print(table(book, 8, width))
    lines = capture.get().splitlines()
    assert max(map(len, lines)) <= width
    assert sum("local_cntl_zone-A_0" in line and "online" in line for line in lines) == 8
    assert "4 more" in lines[-1]
    assert ("policies" in capture.get()) == (width >= 120)


def test_a_table_is_drawn_while_heartbeats_come() -> None:
    """In two threads: neither sees the other's half-done work."""
    codec, topics, stop, mistakes = PlainCodec(), Topics(), threading.Event(), list[BaseException]()
    book = StatusBook(topics, codec)

    def draw() -> None:
        try:
            while not stop.is_set():
                book.rows()
        except BaseException as error:
            mistakes.append(error)

    drawing = threading.Thread(target=draw)
    drawing.start()
    for number in range(300):
        name = f"lc-{number}"
        beat = Envelope(
            message_id=new_message_id(), message_type="status", sender_id=name, region="zone-A", timestamp=1,
            sequence=1, payload={"state": "online", "incarnation": "i"},
        )  # fmt: skip
        book.note(topics.status(name), codec.wrap(beat, topics.status(name)))
    stop.set()
    drawing.join(60)
    assert mistakes == []
    assert len(book.rows()) == 300


TOPIC = "pdsno/status/lc-1"
CODEC = PlainCodec()
TOPICS = Topics()


def heartbeat(state: str, sequence: int, *, age: float = 0.0, connection: int = 1, run: str = "run-1") -> bytes:
    """A heartbeat of lc-1, `age` seconds old."""
    beat = Envelope(
        message_id=new_message_id(), message_type="status", sender_id="lc-1", region="zone-A",
        timestamp=int((time.time() - age) * 1000), sequence=sequence,
        payload={"state": state, "incarnation": run, "connection": connection, "heartbeat_interval": 10.0},
    )  # fmt: skip
    return CODEC.wrap(beat, TOPIC)


def test_an_old_heartbeat_does_not_revive_a_dead_controller() -> None:
    """Published again without a key, it proves nothing about the present: 300 s of skew and three intervals."""
    for age, status in ((329.0, "online"), (331.0, "silent")):
        book = StatusBook(Topics(), CODEC)
        book.note(TOPIC, heartbeat("online", 1, age=age))
        assert [row["status"] for row in book.rows()] == [status]


def test_the_will_of_an_earlier_connection_does_not_mark_a_live_controller_offline() -> None:
    """Every connection has its own will; the broker published an earlier one, and anyone may publish it again."""
    book = StatusBook(Topics(), CODEC)
    old_will, will = heartbeat("offline", 1, connection=1), heartbeat("offline", 3, connection=2)
    book.note(TOPIC, heartbeat("online", 4, connection=2))
    assert book.note(TOPIC, old_will) is None
    assert [row["status"] for row in book.rows()] == ["online"]
    assert book.note(TOPIC, will) is not None
    assert [row["status"] for row in book.rows()] == ["offline"]


def test_an_empty_message_removes_no_controller() -> None:
    """It needs no key."""
    book = StatusBook(Topics(), CODEC)
    book.note(TOPIC, heartbeat("online", 1))
    assert book.note(TOPIC, b"") is None
    assert (len(book.rows()), book.refused["empty"]) == (1, 1)


def test_a_retained_heartbeat_counts_from_when_it_was_written() -> None:
    """Its arrival proves nothing: a controller that has sent none for three intervals is silent."""
    clock = [time.time()]
    book = StatusBook(TOPICS, CODEC, now=lambda: clock[0])
    book.note(TOPICS.status("lc-1"), heartbeat("online", 1, age=40.0), retained=True)
    assert book.rows()[0]["status"] == "silent"
    book.note(TOPICS.status("lc-1"), heartbeat("online", 2, age=40.0))
    assert book.rows()[0]["status"] == "online"  # it has just arrived, whatever its sender's clock says
    assert book.silent_since({"lc-1": "online"}) == []
    clock[0] += 31.0
    assert [row["status"] for row in book.silent_since({"lc-1": "online"})] == ["silent"]


def test_refusals_and_errors_of_each_controller_are_shown() -> None:
    """Those that it counts, and those of its own messages here."""
    book = StatusBook(TOPICS, CODEC)
    book.note(TOPICS.status("lc-1"), heartbeat("online", 1))
    book.note(TOPICS.status("lc-1"), b"{}")
    (row,) = book.rows()
    assert (row["refused_here"], row["refusals"], row["store_errors"]) == (1, {}, 0)
