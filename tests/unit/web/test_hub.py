"""From one tree to every viewer."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from mqttkit.live.tree import TopicTree
from mqttkit.messages import Message
from mqttkit.web import hub as hub_module
from mqttkit.web.hub import Hub, TooManyViewers
from mqttkit.web.viewer import Viewer


class Page:
    """What a browser knows: topics by number, with their counts and latest values."""

    def __init__(self) -> None:
        self.names: dict[int, str] = {}
        self.counts: dict[str, int] = {}
        self.values: dict[str, str] = {}
        self.lost = 0
        self.samples = 0

    def read(self, events: Any) -> None:
        for event in b"".join(events).decode().split("\n\n"):
            if event:
                name, content = event.removeprefix("event: ").split("\ndata: ")
                getattr(self, f"on_{name}", lambda _: None)(json.loads(content))

    def on_reset(self, content: Any) -> None:
        self.names, self.counts, self.values, self.lost = {}, {}, {}, content["lost"]

    def on_topics(self, content: Any) -> None:
        for number, topic, count, _rate, _size, _when, _retained, text in content:
            self.names[number], self.counts[topic], self.values[topic] = topic, count, text

    def on_batch(self, content: Any) -> None:
        for number, topic in content["fresh"]:
            assert number not in self.names
            self.names[number] = topic
        for _, flat in content["parts"]:
            for place in range(0, len(flat), 4):
                topic = self.names[flat[place]]
                self.counts[topic] = self.counts.get(topic, 0) + 1
                self.values[topic] = flat[place + 3]
                self.samples += 1


def receive(hub: Hub, *messages: Message, when: float = 1.0) -> None:
    with hub.tree.lock:
        hub.tree.add(messages, when)
        hub.take(list(messages), when)


def look(hub: Hub, viewer: Viewer, page: Page) -> None:
    """Read what a viewer gets now."""
    if viewer.needs_snapshot:
        page.read(hub.snapshot(viewer))
    page.read(viewer.take(0))


def test_a_viewer_gets_a_snapshot_and_then_each_message_once() -> None:
    hub, page = Hub(TopicTree()), Page()
    receive(hub, Message("a/b", b"1"), Message("a/b", b"2"))
    with hub.viewer() as viewer:
        look(hub, viewer, page)
        assert (page.counts, page.values) == ({"a/b": 2}, {"a/b": "2"})
        receive(hub, Message("a/b", b"3"), Message("new", b"x"))
        hub.send_batches()
        look(hub, viewer, page)
    assert page.counts == {"a/b": 3, "new": 1}
    assert page.values == {"a/b": "3", "new": "x"}


def test_messages_between_a_batch_and_a_snapshot_count_once() -> None:
    """One viewer joins while messages wait for another one."""
    hub, first, second = Hub(TopicTree()), Page(), Page()
    with hub.viewer() as one, hub.viewer() as two:
        look(hub, one, first)
        receive(hub, Message("a", b"1"))
        look(hub, two, second)
        receive(hub, Message("b", b"2"))
        hub.send_batches()
        look(hub, one, first)
        look(hub, two, second)
    assert first.counts == second.counts == {"a": 1, "b": 1}
    assert (first.samples, second.samples) == (2, 1)


def test_a_slow_viewer_gets_a_snapshot_and_the_number_it_lost() -> None:
    hub, page = Hub(TopicTree()), Page()
    with hub.viewer() as viewer:
        viewer._limit = 2000
        look(hub, viewer, page)
        for number in range(100):
            receive(hub, Message("a", b"%d" % number))
            hub.send_batches()
        assert viewer.needs_snapshot
        look(hub, viewer, page)
        assert (page.counts, page.values, page.lost) == ({"a": 100}, {"a": "99"}, 100)
        receive(hub, Message("a", b"next"))
        hub.send_batches()
        look(hub, viewer, page)
    assert page.values == {"a": "next"}


def test_too_many_waiting_messages_are_dropped_for_everyone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_module, "PENDING_BYTES", 10_000)
    hub, page = Hub(TopicTree()), Page()
    with hub.viewer() as viewer:
        look(hub, viewer, page)
        for _ in range(30):
            receive(hub, Message("a", bytes(1000)))
        hub.send_batches()
        look(hub, viewer, page)
    assert page.counts == {"a": 30}
    assert 0 < page.lost <= 30


def test_topics_that_the_tree_drops_disappear() -> None:
    """The numbers of topics start again: memory of the page and of the server is bounded."""
    hub, page = Hub(TopicTree(max_bytes=100_000, values=2)), Page()
    with hub.viewer() as viewer:
        look(hub, viewer, page)
        for number in range(1000):
            receive(hub, Message(f"topic/{number}", b"x"), when=float(number))
            if number % 50 == 0:
                hub.send_batches()
                look(hub, viewer, page)
        hub.send_batches()
        look(hub, viewer, page)
    assert hub.tree.dropped.topics > 0
    assert set(page.counts) == {topic for topic, _ in hub.tree.topics()}
    assert len(hub._topics) <= len(hub.tree) + 50


def test_the_number_of_viewers_is_limited() -> None:
    hub = Hub(TopicTree(), max_viewers=1)
    with hub.viewer():
        with pytest.raises(TooManyViewers), hub.viewer():
            pass
        assert hub.viewers == 1
    with hub.viewer():
        assert hub.viewers == 1


def test_without_viewers_nothing_waits() -> None:
    hub = Hub(TopicTree())
    receive(hub, Message("a", b"x"))
    assert hub._pending == []
    with hub.viewer():
        receive(hub, Message("a", b"x"))
        assert len(hub._pending) == 1
    assert hub._pending == []


def test_the_second_has_rates_and_what_else_is_shown() -> None:
    hub, page = Hub(TopicTree(), each_second=lambda: {"answer": 42}), Page()
    with hub.viewer() as viewer:
        look(hub, viewer, page)
        receive(hub, Message("a", b"x"))
        hub.send_second()
        events = b"".join(viewer.take(0)).decode()
    assert "event: rates\n" in events
    assert '"answer":42' in events
    assert events.index("event: batch") < events.index("event: rates")


@pytest.mark.parametrize("seed", range(5))
def test_each_page_agrees_with_the_tree_whatever_the_order(seed: int) -> None:
    choose = random.Random(seed)
    hub = Hub(TopicTree(max_bytes=60_000, values=2))
    pages = [Page(), Page()]
    with hub.viewer() as one, hub.viewer() as two:
        for step in range(400):
            action = choose.randrange(4)
            if action < 2:
                messages = [Message(f"t/{choose.randrange(150)}", b"%d" % step) for _ in range(choose.randrange(1, 6))]
                receive(hub, *messages, when=float(step))
            elif action == 2:
                hub.send_batches()
            else:
                place = choose.randrange(2)
                look(hub, (one, two)[place], pages[place])
        for viewer, page in zip((one, two), pages, strict=True):
            hub.send_batches()
            look(hub, viewer, page)
            hub.send_batches()
            look(hub, viewer, page)
            counts = {topic: node.count for topic, node in hub.tree.topics()}
            values = {topic: node.message.payload.decode() for topic, node in hub.tree.topics() if node.message}
            assert (page.counts, page.values) == (counts, values)
