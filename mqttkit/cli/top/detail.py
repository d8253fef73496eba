"""The pane with everything about the selected topic."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from rich.cells import chop_cells
from rich.segment import Segment
from rich.style import Style
from textual.geometry import Size
from textual.scroll_view import ScrollView
from textual.strip import Strip

from mqttkit.cli.top.figures import age, rate, shorten, size
from mqttkit.formats.visible import visible
from mqttkit.live.payloads import Shape, difference, numbers, one_line, payload_lines, property_lines, sparkline
from mqttkit.live.tree import TopicNode
from mqttkit.messages import Message

PLAIN = Style()
BOLD = Style(bold=True)
DIM = Style(dim=True)
ADDED = Style(color="green")
REMOVED = Style(color="red")
NUMBER = Style(color="cyan")
SHOWN_VALUES = 20
SPARKLINE_WIDTH = 60


class Line(NamedTuple):
    """A line of the pane."""

    text: str
    style: Style = PLAIN
    wraps: bool = True
    """False: the line is shortened to the width."""


class DetailView(ScrollView, can_focus=True):
    """Lines of text that wrap at the pane's width."""

    def __init__(self) -> None:
        super().__init__()
        self._lines: Sequence[Line] = ()
        self._shown: list[Strip] = []

    @property
    def content_width(self) -> int:
        """Cells of a line."""
        return max(1, self.scrollable_content_region.width)

    def show(self, lines: Sequence[Line]) -> None:
        """Show other lines; the scroll position stays."""
        if lines != self._lines or not self._shown:
            self._lines = lines
            self._wrap()

    def on_resize(self) -> None:
        """Wrap the lines again."""
        self._wrap()

    def _wrap(self) -> None:
        width = self.content_width
        self._shown = [
            Strip([Segment(part, line.style)])
            for line in self._lines
            for part in (chop_cells(line.text, width) if line.wraps else [shorten(line.text, width)]) or [""]
        ]
        self.virtual_size = Size(width, len(self._shown))
        self.refresh()

    def render_line(self, y: int) -> Strip:
        """Draw one line."""
        row = y + self.scroll_offset.y
        width = self.size.width
        return self._shown[row].adjust_cell_length(width) if row < len(self._shown) else Strip.blank(width)


def detail_lines(node: TopicNode, now: float, *, shape: Shape, command: str, width: int) -> list[Line]:
    """Return the lines about a node, for a pane of this width."""
    lines = [Line(visible(node.path) or "(empty name)", BOLD)]
    if node.children:
        lines.append(Line(_summary(node, now), DIM))
    if node.message is not None:
        lines += _message_lines(node, node.message, now, shape=shape, width=width)
    return [*lines, Line("── the same as a command ──", DIM), Line(visible(command))]


def _message_lines(node: TopicNode, message: Message, now: float, *, shape: Shape, width: int) -> Iterator[Line]:
    qos, *properties = property_lines(message)
    mark = ", the broker retains it" if node.retained else ""
    figures = f"{node.count:,} messages, {rate(node.rate)}/s, {size(len(message.payload))} bytes"
    yield Line(f"{figures}, {age(now - node.when)} ago, {qos}{mark}", DIM)
    for line in properties:
        yield Line(line, DIM)
    sparklines = _sparklines(node, width)
    yield from sparklines[:1]
    if shape is not Shape.AUTO:
        yield Line(f"── as {shape.value} ──", DIM)
    for line in payload_lines(message.payload, shape):
        yield Line(line)
    yield from sparklines[1:]
    yield from _changes(node)
    yield from _values(node, now)


def _summary(node: TopicNode, now: float) -> str:
    topics = "1 topic" if node.topics == 1 else f"{node.topics:,} topics"
    return (
        f"{topics}, {node.total_count:,} messages, {rate(node.total_rate)}/s, "
        f"{size(node.total_bytes)} bytes, latest {age(now - node.newest)} ago"
    )


def _sparklines(node: TopicNode, width: int) -> list[Line]:
    history = node.history[-SPARKLINE_WIDTH:]
    found = [numbers(payload) for _, payload in history]
    lines = []
    for name in found[-1] if len(found) > 1 else ():
        values = [each[name] for each in found if name in each]
        if len(values) > 1:
            label = visible(f"{name} " if name else "")[:20]
            figures = f" {values[-1]:g} ({min(values):g} to {max(values):g})"
            bars = sparkline(values, max(8, min(SPARKLINE_WIDTH, width - len(label) - len(figures))))
            lines.append(Line(f"{label}{bars}{figures}", NUMBER, wraps=False))
    return lines


def _changes(node: TopicNode) -> Iterator[Line]:
    history = node.history
    if len(history) < 2:
        return
    changes = difference(history[-2][1], history[-1][1])
    yield Line("── changed since the message before ──" if changes else "── same as the message before ──", DIM)
    for line in changes:
        yield Line(line, ADDED if line.startswith("+") else REMOVED)


def _values(node: TopicNode, now: float) -> Iterator[Line]:
    history = node.history[-SHOWN_VALUES:]
    if len(history) < 2:
        return
    yield Line(f"── last {len(history)} values ──", DIM)
    for when, payload in reversed(history):
        yield Line(f"{age(now - when):>4} ago  {one_line(payload)}", wraps=False)
