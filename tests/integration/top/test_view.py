"""The live view against a real broker, driven by Textual's Pilot."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot
from textual.widgets import Input, Static

from mqttkit.cli.top.app import TopApp
from mqttkit.cli.top.detail import DetailView
from mqttkit.cli.top.tree_view import TreeView
from mqttkit.client import MqttClient
from mqttkit.live.actions import RetainedMessages
from mqttkit.live.feed import Feed
from mqttkit.live.rows import Order
from mqttkit.live.tree import TopicTree
from mqttkit.retained.reading import read_broker
from tests.support.brokers import Mosquitto, mosquitto
from tests.support.clients import settings_for


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mosquitto]:
    with mosquitto(tmp_path_factory.mktemp("broker"), "sys_interval 1") as running:
        yield running


@pytest.fixture
def client(broker: Mosquitto) -> Iterator[MqttClient]:
    with MqttClient(settings_for(broker.port)) as publisher:
        publisher.connect()
        yield publisher


Screen = Pilot[None]


@contextlib.asynccontextmanager
async def view_of(broker: Mosquitto, *filters: str, size: tuple[int, int] = (80, 24)) -> AsyncIterator[Screen]:
    """Run the view; the block begins once it is drawn."""
    settings = settings_for(broker.port)
    with Feed(settings, filters or ("#",), TopicTree()) as feed, RetainedMessages(settings) as retained:
        async with TopApp(feed, retained, Order.NAME).run_test(size=size) as pilot:
            await pilot.pause()
            yield pilot


async def until(pilot: Screen, condition: Callable[[], Any], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, screen_text(pilot)
        await pilot.pause(0.05)


def screen_text(pilot: Screen) -> str:
    """Return what the screen shows, line by line."""
    lines = pilot.app.screen._compositor.render_strips(pilot.app.size)
    return "\n".join("".join(segment.text for segment in line) for line in lines)


def rows_of(pilot: Screen) -> list[str]:
    return [node.path for node in pilot.app.query_one(TreeView).rows]


def run(check: Any) -> None:
    asyncio.run(check)


def test_topics_appear_with_their_values(broker: Mosquitto, client: MqttClient) -> None:
    async def check() -> None:
        async with view_of(broker, "one/#") as pilot:
            client.publish("one/room/temperature", b"21.5", qos=1).wait(60)
            await until(pilot, lambda: "21.5" in screen_text(pilot))
            assert rows_of(pilot) == ["one", "one/room", "one/room/temperature"]
            await until(pilot, lambda: "clients" in screen_text(pilot))  # the broker's own figures

    run(check())


@pytest.mark.parametrize("size", [(60, 20), (80, 24)])
def test_figures_without_room_are_left_out(broker: Mosquitto, client: MqttClient, size: tuple[int, int]) -> None:
    """A narrow terminal shows the first of the broker's figures, each whole, and whole addresses of devices."""

    async def check() -> None:
        async with view_of(broker, "ble/#", size=size) as pilot:
            client.publish("ble/raw/gate/AA:BB:CC:DD:EE:FF", b"x", qos=1).wait(60)
            await until(pilot, lambda: "AA:BB:CC:DD:EE:FF" in screen_text(pilot))
            await until(pilot, lambda: "  memory " in screen_text(pilot))
            lines = screen_text(pilot).splitlines()
            assert lines[1].startswith(" broker  ")
            assert "…" not in lines[1]
            assert lines[-1].rstrip().endswith("q quit")

    run(check())


@pytest.mark.parametrize("size", [(60, 20), (80, 24), (160, 50)])
def test_control_characters_never_reach_the_screen(
    broker: Mosquitto, client: MqttClient, size: tuple[int, int]
) -> None:
    """Escapes in a payload and a bidirectional mark in a topic are shown as text, in rows and in the pane."""

    async def check() -> None:
        async with view_of(broker, "evil/#", size=size) as pilot:
            client.publish("evil/\u202ename", b"\x1b[2J\x1b]0;title\x07\r\xff", qos=1).wait(60)
            await until(pilot, lambda: len(rows_of(pilot)) == 2)
            await pilot.press("end")
            await until(pilot, lambda: "1b 5b 32" in screen_text(pilot) or "\\x1b[2J" in screen_text(pilot))
            assert screen_text(pilot).replace("\n", "").isprintable()
            assert "\\u202ename" in screen_text(pilot)

    run(check())


def test_keys_open_close_search_filter_and_sort(broker: Mosquitto, client: MqttClient) -> None:
    async def check() -> None:
        async with view_of(broker, "keys/#") as pilot:
            for topic, payload in (("keys/a/one", b"1"), ("keys/b/two", b"22222"), ("keys/c", b"3")):
                client.publish(topic, payload, qos=1).wait(60)
            await until(pilot, lambda: len(rows_of(pilot)) == 6)
            await pilot.press("home", "left")
            assert rows_of(pilot) == ["keys"]
            await pilot.press("slash", *"two", "enter")
            assert pilot.app.query_one(TreeView).cursor.path == "keys/b/two"  # type: ignore[union-attr]
            await pilot.press("f", *"one", "enter")
            assert rows_of(pilot) == ["keys", "keys/a", "keys/a/one"]
            await pilot.press("escape", "3")
            assert rows_of(pilot)[1] == "keys/b"

    run(check())


def test_a_frozen_view_does_not_change(broker: Mosquitto, client: MqttClient) -> None:
    async def check() -> None:
        async with view_of(broker, "ice/#") as pilot:
            client.publish("ice/a", b"before", qos=1).wait(60)
            await until(pilot, lambda: "before" in screen_text(pilot))
            await pilot.press("space")
            client.publish("ice/a", b"after!", qos=1).wait(60)
            client.publish("ice/b", b"x", qos=1).wait(60)
            await until(pilot, lambda: "FROZEN, 2 messages" in screen_text(pilot))
            assert rows_of(pilot) == ["ice", "ice/a"]
            assert "after!" not in screen_text(pilot)
            await pilot.press("space")
            await until(pilot, lambda: "after!" in screen_text(pilot))
            assert rows_of(pilot) == ["ice", "ice/a", "ice/b"]

    run(check())


def test_the_pane_shows_json_changes_and_a_sparkline(broker: Mosquitto, client: MqttClient) -> None:
    async def check() -> None:
        async with view_of(broker, "pane/#", size=(140, 40)) as pilot:
            for value in (1, 5, 9):
                client.publish("pane/x", b'{"value":%d,"unit":"C"}' % value, qos=1).wait(60)
            await until(pilot, lambda: len(rows_of(pilot)) == 2)
            await pilot.press("end")
            await until(pilot, lambda: '+  "value": 9' in screen_text(pilot))
            text = screen_text(pilot)
            assert '-  "value": 5' in text
            assert "value ▁▄█ 9" in text or "value ▁▅█ 9" in text
            assert "mqttkit sub" in text
            await pilot.press("x", "x")
            await until(pilot, lambda: "7b 22 76" in screen_text(pilot))

    run(check())


def test_publish_from_the_view(broker: Mosquitto, client: MqttClient) -> None:
    """The dialog shows the command that does the same, and the message arrives."""

    async def check() -> None:
        async with view_of(broker, "out/#") as pilot:
            await pilot.press("p")
            await until(pilot, lambda: pilot.app.screen.query("#topic"))
            pilot.app.screen.query_one("#topic", Input).value = "out/lamp"
            pilot.app.screen.query_one("#payload", Input).value = "on now"
            await until(pilot, lambda: "-q 1 -m 'on now' out/lamp" in screen_text(pilot))
            await pilot.press("enter")
            await until(pilot, lambda: rows_of(pilot) == ["out", "out/lamp"])
            await until(pilot, lambda: "published; the same: mqttkit pub" in screen_text(pilot))

    run(check())


def test_a_wrong_topic_stays_in_the_dialog(broker: Mosquitto) -> None:
    async def check() -> None:
        async with view_of(broker, "out/#") as pilot:
            await pilot.press("p")
            await until(pilot, lambda: pilot.app.screen.query("#topic"))
            pilot.app.screen.query_one("#topic", Input).value = "out/#"
            await pilot.press("enter")
            await until(pilot, lambda: "wildcard" in str(pilot.app.screen.query_one("#command", Static).render()))

    run(check())


def test_retained_messages_are_removed_and_restored(broker: Mosquitto, client: MqttClient) -> None:
    """The preview names them; y removes them from the broker; u publishes them again as they were."""
    topics = {"keep/a": b"1", "keep/b/c": b"2"}
    for topic, payload in topics.items():
        client.publish(topic, payload, qos=1, retain=True).wait(60)

    def on_broker() -> dict[str, bytes]:
        return {one.topic: one.payload for one in read_broker(settings_for(broker.port), ["keep/#"])}

    async def check() -> None:
        async with view_of(broker, "keep/#") as pilot:
            await until(pilot, lambda: len(rows_of(pilot)) == 4)
            await pilot.press("home", "d")
            await until(pilot, lambda: "Remove 2 retained messages?" in screen_text(pilot))
            assert "mqttkit retained prune" in screen_text(pilot)
            await pilot.press("y")
            await until(pilot, lambda: "2 removed" in screen_text(pilot))
            assert await asyncio.to_thread(on_broker) == {}
            await pilot.press("u")
            await until(pilot, lambda: "2 restored" in screen_text(pilot))
            assert await asyncio.to_thread(on_broker) == topics

    run(check())


def test_the_lost_connection_and_its_return_are_shown(tmp_path: Path) -> None:
    async def check(own: Mosquitto) -> None:
        async with view_of(own) as pilot:
            own.stop()
            await until(pilot, lambda: "waiting for" in screen_text(pilot) or "connecting for" in screen_text(pilot))
            own.start()
            await until(pilot, lambda: "connected for" in screen_text(pilot))

    with mosquitto(tmp_path) as own:
        run(check(own))


def test_ten_thousand_topics_are_drawn_line_by_line(broker: Mosquitto) -> None:
    """With every branch open there are 10,100 rows, and the last one can be reached."""

    async def check() -> None:
        async with view_of(broker, "none/#") as pilot:
            from mqttkit.messages import Message

            feed = pilot.app.feed  # type: ignore[attr-defined]
            many = [Message(f"{number // 100}/{number % 100}", b"1") for number in range(10_000)]
            feed.tree.add(many, time.monotonic())
            feed.changed.set()
            await until(pilot, lambda: len(rows_of(pilot)) == 100)
            await pilot.press("plus", "end")
            assert len(rows_of(pilot)) == 10_100
            await until(pilot, lambda: pilot.app.query_one(DetailView)._lines[0][0] == "99/99")
            assert "  99" in screen_text(pilot)

    run(check())
