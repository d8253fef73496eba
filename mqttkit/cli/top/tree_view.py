"""The tree on the screen: draws only the lines that are visible, however many topics there are."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import ClassVar

from rich.segment import Segment
from rich.style import Style
from textual.binding import Binding, BindingType
from textual.color import Color
from textual.filter import LineFilter
from textual.geometry import Region, Size
from textual.message import Message as Event
from textual.scroll_view import ScrollView
from textual.strip import Strip

from mqttkit.cli.top.figures import age, fit, rate, shorten, size
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
WHOLE_ADDRESS = 26
"""Width of the topic, as far as the value leaves it, so that a MAC address on the fourth level is whole."""
LEAST_VALUE = 10
FIGURES = 8 + 6 + 5 + 3
"""Columns of rate, size, age and the retained mark."""
KEPT_NAMES = 1_000
"""Rows whose first column is kept as text."""


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
        self._first_columns: dict[TopicNode, tuple[bool | None, int, str]] = {}
        self._final_styles: dict[Style, Style] = {}
        self._drawn_on: tuple[Color, Sequence[LineFilter]] = (Color(0, 0, 0), ())

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

    def render_lines(self, crop: Region) -> list[Strip]:
        """Draw the visible lines.

        Textual's own method looks up borders, padding and colours for each line; this widget has none of them.
        """
        background, filters = self.background_colors[1], self.get_line_filters()
        if (background, filters) != self._drawn_on:
            self._drawn_on = (background, filters)
            self._final_styles.clear()
        width, first = self.size.width, self.scroll_offset.y
        strips = [self._row(first + y, width) for y in crop.line_range]
        left, right = crop.column_span
        return strips if (left, right) == (0, self.region.width) else [strip.crop(left, right) for strip in strips]

    def _row(self, row: int, width: int) -> Strip:
        if row >= len(self.rows):
            return Strip([Segment(" " * width, self._final_style(PLAIN))], width)
        pieces, least = self._draw(self.rows[row], width), self._widths()[0] + FIGURES
        if row == self._index:
            pieces = [(text, CURSOR) for text, _ in pieces]
        strip = Strip([Segment(text, self._final_style(style)) for text, style in pieces], max(width, least))
        return strip if width >= least else strip.crop(0, width)

    def _final_style(self, style: Style) -> Style:
        """Return a style as Textual's filters change it, for the colours that a terminal has."""
        found = self._final_styles.get(style)
        if found is None:
            background, filters = self._drawn_on
            segments = [Segment("x", style)]
            for each in filters:
                segments = each.apply(segments, background)
            found = self._final_styles[style] = segments[0].style or PLAIN
        return found

    def _widths(self) -> tuple[int, int]:
        """Return the widths of the topic and of the value."""
        left = max(20, self.size.width - FIGURES)
        name = max(12, min(WHOLE_ADDRESS, left - LEAST_VALUE), min(60, left * 11 // 20))
        return name, left - name

    def _draw(self, node: TopicNode, width: int) -> list[tuple[str, Style]]:
        """Return the texts of a row, together as wide as the row."""
        name_width, value_width = self._widths()
        silent = self.now() - node.newest
        if node.message is not None:
            value = one_line(node.message.payload) or "(empty)"
            value_style = FRESH if silent < FRESH_SECONDS else PLAIN
        else:
            value, value_style = f"{node.topics:,} topic" + ("s" if node.topics != 1 else ""), DIM
        return [
            (self._first_column(node, name_width), BRANCH if node.children else PLAIN),
            (rate(node.total_rate).rjust(8), RATE if node.total_rate else DIM),
            (size(node.total_bytes).rjust(6), PLAIN),
            (age(silent).rjust(5), DIM),
            (" R " if node.retained else "   ", MARK),
            (fit(shorten(value, value_width - 1), max(0, width - name_width - FIGURES)), value_style),
        ]

    def _first_column(self, node: TopicNode, width: int) -> str:
        """Return the first column of a row."""
        opened = is_open(node, all_open=self._all_open) if node.children else None
        known = self._first_columns.get(node)
        if known is not None and known[:2] == (opened, width):
            return known[2]
        arrow = "  " if opened is None else "▾ " if opened else "▸ "
        indent = " " * min(MAX_INDENT, 2 * (node.depth - 1))
        text = fit(shorten(indent + arrow + (visible(node.name) or "(empty)"), width), width)
        if len(self._first_columns) >= KEPT_NAMES:
            self._first_columns.clear()
        self._first_columns[node] = (opened, width, text)
        return text
