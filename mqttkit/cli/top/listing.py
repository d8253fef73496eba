"""`mqttkit top --once`: one table, or JSON lines, after some seconds."""

from __future__ import annotations

import threading
import time
from typing import Any

import click

from mqttkit.cli.output.render import print_json, print_table
from mqttkit.cli.top.figures import age, rate, size
from mqttkit.formats.visible import visible
from mqttkit.live.feed import Feed
from mqttkit.live.payloads import one_line
from mqttkit.live.rows import Order, sorted_topics
from mqttkit.live.tree import TopicNode

VALUE_WIDTH = 40


def show_once(feed: Feed, seconds: float, order: Order, *, as_json: bool) -> None:
    """Listen for `seconds`, then print each topic with the average rate of that time.

    A topic's first message does not count in its rate if it was retained: the broker had it before.
    """
    began = time.monotonic()
    threading.Event().wait(seconds)
    now = time.monotonic()
    topics = sorted_topics(feed.tree, Order.NAME)
    for _, node in topics:
        node.rate = node.counted_live / (now - began)
    if order is not Order.NAME:
        topics = sorted_topics(feed.tree, order)
    if as_json:
        for _, node in topics:
            print_json(_object(node, now))
    else:
        header = ("topic", "messages/s", "messages", "bytes", "age", "retained", "value")
        print_table(header, [_cells(topic, node, now) for topic, node in topics])
    _show_dropped(feed)


def _cells(topic: str, node: TopicNode, now: float) -> tuple[str, ...]:
    payload = node.message.payload if node.message else b""
    text = one_line(payload)
    shown = text if len(text) <= VALUE_WIDTH else text[: VALUE_WIDTH - 1] + "…"
    return (
        *(visible(topic), rate(node.rate), str(node.count), size(len(payload))),
        *(age(now - node.when), "yes" if node.retained else "", shown),
    )


def _object(node: TopicNode, now: float) -> dict[str, Any]:
    from mqttkit.formats.jsonlines import to_object

    assert node.message is not None
    line = to_object(node.message, 0)
    for name in ("timestamp", "qos", "retain", "dup", "properties"):
        line.pop(name, None)
    figures = {
        "rate": round(node.rate, 3),
        "messages": node.count,
        "bytes": len(node.message.payload),
        "age": round(now - node.when, 3),
        "retained": node.retained,
    }
    value = {name: line.pop(name) for name in list(line) if name.startswith("payload")}
    return {**line, **figures, **value}


def _show_dropped(feed: Feed) -> None:
    dropped = feed.tree.dropped
    if dropped.topics or dropped.cut:
        text = f"{dropped.topics:,} topics did not fit into --max-memory; {dropped.cut:,} payloads were cut"
        click.echo(text, err=True)
