"""The pane with everything about the selected topic."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.cells import chop_cells
from rich.segment import Segment
from rich.style import Style
from textual.geometry import Size
from textual.scroll_view import ScrollView
from textual.strip import Strip

from mqttkit.cli.top.figures import age, rate, size
from mqttkit.formats.visible import visible
from mqttkit.top.payloads import Shape, difference, numbers, one_line, payload_lines, property_lines, sparkline
from mqttkit.top.tree import Node

PLAIN = Style()
BOLD = Style(bold=True)
DIM = Style(dim=True)
ADDED = Style(color="green")
REMOVED = Style(color="red")
LINE = Style(color="cyan")
SHOWN_VALUES = 20
SPARKLINE_WIDTH = 60

Line = tuple[str, Style]


class DetailView(ScrollView, can_focus=True):
    """Lines of text that wrap at the pane's width."""

    def __init__(self) -> None:
        super().__init__()
        self._lines: Sequence[Line] = ()
        self._shown: list[Strip] = []

    def show(self, lines: Sequence[Line]) -> None:
        """Show other lines; the scroll position stays."""
        if lines != self._lines or not self._shown:
            self._lines = lines
            self._wrap()

    def on_resize(self) -> None:
        """Wrap the lines again."""
        self._wrap()

    def _wrap(self) -> None:
        width = max(1, self.scrollable_content_region.width)
        self._shown = [
            Strip([Segment(part, style)]) for text, style in self._lines for part in chop_cells(text, width) or [""]
        ]
        self.virtual_size = Size(width, len(self._shown))
        self.refresh()

    def render_line(self, y: int) -> Strip:
        """Draw one line."""
        row = y + self.scroll_offset.y
        width = self.size.width
        return self._shown[row].adjust_cell_length(width) if row < len(self._shown) else Strip.blank(width)


def detail_lines(node: Node, now: float, *, shape: Shape, command: str) -> list[Line]:
    """Return the lines about a node."""
    lines: list[Line] = [(visible(node.path) or "(empty name)", BOLD)]
    if node.children:
        lines.append((_summary(node, now), DIM))
    message = node.message
    if message is not None:
        mark = ", the broker retains it" if node.retained else ""
        qos, *properties = property_lines(message)
        figures = f"{node.count:,} messages, {rate(node.rate)}/s, {size(len(message.payload))} bytes"
        lines.append((f"{figures}, {age(now - node.when)} ago, {qos}{mark}", DIM))
        lines += [(line, DIM) for line in properties]
        first, *others = [*_sparklines(node), None]
        lines += [first] if first else []
        if shape is not Shape.AUTO:
            lines.append((f"── as {shape.value} ──", DIM))
        lines += [(line, PLAIN) for line in payload_lines(message.payload, shape)]
        lines += filter(None, others)
        lines += _changes(node)
        lines += _values(node, now)
    return [*lines, ("── the same as a command ──", DIM), (visible(command), PLAIN)]


def _summary(node: Node, now: float) -> str:
    topics = "1 topic" if node.topics == 1 else f"{node.topics:,} topics"
    return (
        f"{topics}, {node.total_count:,} messages, {rate(node.total_rate)}/s, "
        f"{size(node.total_bytes)} bytes, latest {age(now - node.newest)} ago"
    )


def _sparklines(node: Node) -> Iterator[Line]:
    history = node.history[-SPARKLINE_WIDTH:]
    if len(history) < 2:
        return
    found = [numbers(payload) for _, payload in history]
    for name in found[-1]:
        values = [each[name] for each in found if name in each]
        if len(values) > 1:
            text = f"{sparkline(values, SPARKLINE_WIDTH)} {values[-1]:g}  ({min(values):g} to {max(values):g})"
            yield visible(f"{name} {text}" if name else text), LINE


def _changes(node: Node) -> Iterator[Line]:
    history = node.history
    if len(history) < 2:
        return
    changes = difference(history[-2][1], history[-1][1])
    yield ("── changed since the message before ──" if changes else "── same as the message before ──"), DIM
    for line in changes:
        yield line, ADDED if line.startswith("+") else REMOVED


def _values(node: Node, now: float) -> Iterator[Line]:
    history = node.history[-SHOWN_VALUES:]
    if len(history) < 2:
        return
    yield f"── last {len(history)} values ──", DIM
    for when, payload in reversed(history):
        yield f"{age(now - when):>4} ago  {one_line(payload)}", PLAIN
