"""Everything about one topic, for the pane of the page."""

from __future__ import annotations

from collections.abc import Sequence

from mqttkit.formats.visible import visible
from mqttkit.live.actions import subscribe_command
from mqttkit.live.payloads import Shape, difference, numbers, one_line, payload_lines, property_lines
from mqttkit.live.tree import TopicTree
from mqttkit.web.hub import Hub

SHOWN_VALUES = 30
MAX_CHANGES = 200
"""Lines of the difference to the message before."""


def topic_detail(
    hub: Hub, tree: TopicTree, connection: Sequence[str], number: int, shape: str
) -> dict[str, object] | None:
    """Return what the page shows about the topic with this number; None if there is none.

    `connection` has the options of a command for the same broker.
    """
    found = hub.find(number)
    if found is None:
        return None
    topic, node = found
    with tree.lock:
        message, history, count, rate, retained = node.message, node.history, node.count, node.rate, node.retained
    if message is None:
        return None
    known = [each.value for each in Shape]
    lines = payload_lines(message.payload, Shape(shape) if shape in known else Shape.AUTO)
    changes = difference(history[-2][1], history[-1][1]) if len(history) > 1 else []
    return {
        "number": number,
        "topic": visible(topic),
        "count": count,
        "rate": round(rate, 3),
        "size": len(message.payload),
        "retained": retained,
        "properties": property_lines(message),
        "lines": lines,
        "changes": changes[:MAX_CHANGES],
        "values": [(_milliseconds(hub, when), one_line(payload)) for when, payload in history[-SHOWN_VALUES:]],
        "series": _series(hub, history),
        "command": visible(subscribe_command(topic, connection)),
    }


def _series(hub: Hub, history: Sequence[tuple[float, bytes]]) -> dict[str, list[tuple[int, float]]]:
    """Return the numbers of the recent values by name, each with its time."""
    series: dict[str, list[tuple[int, float]]] = {}
    for when, payload in history:
        for name, value in numbers(payload).items():
            series.setdefault(visible(name), []).append((_milliseconds(hub, when), value))
    return series


def _milliseconds(hub: Hub, when: float) -> int:
    return round((when + hub.offset) * 1000)
