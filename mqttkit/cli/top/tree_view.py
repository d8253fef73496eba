"""The tree on the screen: draws only the lines that are visible, however many topics there are."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import ClassVar

from rich.cells import set_cell_size
from rich.segment import Segment
from rich.style import Style
from textual.binding import Binding, BindingType
from textual.geometry import Region, Size
from textual.message import Message as Event
from textual.scroll_view import ScrollView
from textual.strip import Strip

from mqttkit.cli.top.figures import age, rate, shorten, size
from mqttkit.formats.visible import visible
from mqttkit.live.payloads import one_line
from mqttkit.live.rows import Order, View, is_open, opens_all, rows
from mqttkit.live.tree import TopicNode, TopicTree

PLAIN = Style()
DIM = Style(dim=True)
BRANCH = Style(bold=True)
RATE = Style(color="green")
MARK = Style(color="yellow")
CURSOR = Style(bgcolor="blue", color="white", bold=True)
TITLE = Style(dim=True, underline=True)
SORTED = Style(bold=True, underline=True)
FRESH = Style(color="cyan")
FRESH_SECONDS = 0.5
"""A value is highlighted for so long after it arrived."""
MAX_INDENT = 20
FIGURES = 8 + 6 + 5 + 2
"""Columns of rate, size, age and the retained mark."""


class TreeView(ScrollView, can_focus=True):
    """The rows of a tree, with a cursor."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1)", show=False),
        Binding("down,j", "move(1)", show=False),
        Binding("pageup", "page(-1)", show=False),
        Binding("pagedown", "page(1)", show=False),
        Binding("home,g", "edge(0)", show=False),
        Binding("end,G", "edge(1)", show=False),
        Binding("right,l", "open(True)", show=False),
        Binding("left,h", "open(False)", show=False),
        Binding("enter", "turn", show=False),
        Binding("plus", "open_all(True)", show=False),
        Binding("minus", "open_all(False)", show=False),
    ]

    class Moved(Event):
        """The cursor is on another node."""

        def __init__(self, node: TopicNode | None) -> None:
            super().__init__()
            self.node = node

    def __init__(self, tree: TopicTree, order: Order) -> None:
        super().__init__()
        self.topics = tree
        self.view = View(order)
        self.rows: list[TopicNode] = []
        self.cursor: TopicNode | None = None
        self.now: Callable[[], float] = time.monotonic
        self._index = 0
        self._all_open = True

    # --- rows ---------------------------------------------------------------------------------------------

    def rebuild(self) -> None:
        """Choose and sort the rows again; the cursor stays on its node."""
        self.rows = rows(self.topics, self.view)
        self._all_open = opens_all(self.topics, self.view)
        self.virtual_size = Size(self.size.width, len(self.rows))
        try:
            self._index = self.rows.index(self.cursor) if self.cursor is not None else self._index
        except ValueError:
            self._index = min(self._index, max(0, len(self.rows) - 1))
        self._set_cursor(self._index, scroll=False)
        self.refresh()

    def show(self, tree: TopicTree) -> None:
        """Show another tree, with the cursor on the same topic."""
        path = self.cursor.path if self.cursor else ""
        self.topics = tree
        self.cursor = next((node for node in rows(tree, self.view) if node.path == path), None)
        self.rebuild()

    def change_view(self, view: View) -> None:
        """Sort or filter otherwise."""
        self.view = view
        self.rebuild()
        self.scroll_to_region(Region(0, self._index, 1, 1), animate=False)

    def search(self, test: Callable[[str], bool], step: int = 1) -> bool:
        """Move the cursor to the next topic that passes the test, also in closed branches; return False if none."""
        every = View(self.view.order, self.view.wanted)
        nodes = rows(self.topics, every, closed_too=True)
        start = nodes.index(self.cursor) if self.cursor in nodes else 0
        for distance in range(1, len(nodes) + 1):
            node = nodes[(start + step * distance) % len(nodes)]
            if node.message is not None and test(node.path):
                self.reveal(node)
                return True
        return False

    def reveal(self, node: TopicNode) -> None:
        """Open the branches above a node and move the cursor to it."""
        above = node.parent
        while above is not None:
            above.opened = True
            above = above.parent
        self.cursor = node
        self.rebuild()
        self.scroll_to_region(Region(0, self._index, 1, 1), animate=False)
        self.post_message(self.Moved(node))

    # --- keys ---------------------------------------------------------------------------------------------

    def action_move(self, step: int) -> None:
        """Move the cursor by rows."""
        self._set_cursor(self._index + step)

    def action_page(self, step: int) -> None:
        """Move the cursor by pages."""
        self._set_cursor(self._index + step * max(1, self.size.height - 1))

    def action_edge(self, end: int) -> None:
        """Move the cursor to the first or last row."""
        self._set_cursor(len(self.rows) - 1 if end else 0)

    def action_turn(self) -> None:
        """Open or close the branch."""
        if self.cursor is not None:
            self._open(self.cursor, not is_open(self.cursor, all_open=self._all_open))

    def action_open(self, opened: bool) -> None:
        """Open the branch; or close it, or go to the branch above."""
        node = self.cursor
        if node is None:
            return
        if bool(node.children) and is_open(node, all_open=self._all_open) != opened:
            self._open(node, opened)
        elif opened:
            self.action_move(1 if node.children else 0)
        elif node.parent is not None and node.parent.parent is not None:
            self._set_cursor(self.rows.index(node.parent))

    def action_open_all(self, opened: bool) -> None:
        """Open or close every branch."""
        for node in rows(self.topics, self.view, closed_too=True):
            node.opened = opened
        self.rebuild()

    def on_click(self, event: object) -> None:
        """Move the cursor to the row; a second click opens or closes it."""
        row = int(getattr(event, "y", 0)) + self.scroll_offset.y
        if row < len(self.rows):
            if row == self._index:
                self.action_turn()
            else:
                self._set_cursor(row)

    def _open(self, node: TopicNode, opened: bool) -> None:
        if node.children:
            node.opened = opened
            self.rebuild()

    def _set_cursor(self, index: int, *, scroll: bool = True) -> None:
        self._index = max(0, min(index, len(self.rows) - 1))
        node = self.rows[self._index] if self.rows else None
        if node is not self.cursor:
            self.cursor = node
            self.post_message(self.Moved(node))
        if scroll:
            self.scroll_to_region(Region(0, self._index, 1, 1), animate=False)
        self.refresh()

    # --- drawing ------------------------------------------------------------------------------------------

    def title(self) -> Strip:
        """Return the line above the rows."""
        name_width, value_width = self._widths()
        order = self.view.order
        columns = (
            (Order.NAME, "topic".ljust(name_width)),
            (Order.RATE, "msg/s".rjust(8)),
            (Order.SIZE, "bytes".rjust(6)),
            (Order.AGE, "age".rjust(5)),
            (None, "   " + "value".ljust(max(0, value_width - 1))),
        )
        return Strip([Segment(text, SORTED if column is order else TITLE) for column, text in columns])

    def render_line(self, y: int) -> Strip:
        """Draw one line."""
        row = y + self.scroll_offset.y
        width = self.size.width
        if row >= len(self.rows):
            return Strip.blank(width)
        strip = self._draw(self.rows[row])
        if row == self._index:
            strip = Strip([Segment(segment.text, CURSOR) for segment in strip])
        return strip.adjust_cell_length(width)

    def _widths(self) -> tuple[int, int]:
        """Return the widths of the topic and of the value."""
        left = max(20, self.size.width - FIGURES)
        name = max(12, min(60, left * 11 // 20))
        return name, left - name

    def _draw(self, node: TopicNode) -> Strip:
        name_width, value_width = self._widths()
        arrow = ("▾ " if is_open(node, all_open=self._all_open) else "▸ ") if node.children else "  "
        indent = " " * min(MAX_INDENT, 2 * (node.depth - 1))
        name = set_cell_size(shorten(indent + arrow + (visible(node.name) or "(empty)"), name_width), name_width)
        silent = self.now() - node.newest
        segments = [
            Segment(name, BRANCH if node.children else PLAIN),
            Segment(rate(node.total_rate).rjust(8), RATE if node.total_rate else DIM),
            Segment(size(node.total_bytes).rjust(6), PLAIN),
            Segment(age(silent).rjust(5), DIM),
            Segment(" R " if node.retained else "   ", MARK),
        ]
        if node.message is not None:
            text = one_line(node.message.payload) or "(empty)"
            segments.append(Segment(shorten(text, value_width - 1), FRESH if silent < FRESH_SECONDS else PLAIN))
        else:
            topics = f"{node.topics:,} topic" + ("s" if node.topics != 1 else "")
            segments.append(Segment(shorten(topics, value_width - 1), DIM))
        return Strip(segments)
