"""What `watch` makes of heartbeats."""

from __future__ import annotations

import threading

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
    beat = Envelope(
        message_id=new_message_id(), message_type="status", sender_id="lc-1", region="zone-A", timestamp=1, sequence=1,
        payload=odd,
    )  # fmt: skip
    assert book.note(where, codec.wrap(beat, where)) is not None
    (row,) = book.rows()
    assert (row["status"], row["reports"], row["hops"], row["policies"]) == ("online", 0, 0, {})
    assert cells(row)[:4] == ["lc-1", "['local']", "?", "online"]


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
    drawing.join(20)
    assert mistakes == []
    assert len(book.rows()) == 300
