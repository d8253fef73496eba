"""The live view: header, tree, detail pane, status line."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import signal
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar

from rich.text import Text
from textual import work
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container, Vertical
from textual.widgets import Input, Static

from mqttkit.cli.top.detail import DetailView, detail_lines
from mqttkit.cli.top.dialogs import HelpDialog, PublishDialog, RemoveDialog
from mqttkit.cli.top.header import header_lines
from mqttkit.cli.top.layout import CSS
from mqttkit.cli.top.tree_view import TreeView
from mqttkit.errors import MqttkitError
from mqttkit.formats.visible import visible
from mqttkit.live.actions import (
    Removal,
    RetainedMessages,
    connection_words,
    publish,
    publish_command,
    remove_command,
    restore_command,
    subscribe_command,
)
from mqttkit.live.feed import Feed
from mqttkit.live.local_broker import local_profile
from mqttkit.live.payloads import Shape
from mqttkit.live.rows import Order, View, topic_test
from mqttkit.live.tree import TopicNode
from mqttkit.messages import Message

if TYPE_CHECKING:
    from mqttkit.retained.changing import Change

FRAME_SECONDS = 0.1
TICK_SECONDS = 1.0
DETAIL_FRAMES = 3
"""The pane is drawn every third frame: decoding, differences and sparklines cost more than a row."""
KEYS = "? help  1-4 sort  / search  f filter  space freeze  x form  p publish  d delete retained  u undo  q quit"
SHORT_KEYS = "? help  1-4 sort  / search  f filter  space freeze  p publish  d delete  q quit"
NARROW_KEYS = "? help  1-4 sort  / search  f filter  p publish  q quit"


class TopApp(App[None]):
    """Shows the topics of a feed until the user quits."""

    CSS = CSS
    ENABLE_COMMAND_PALETTE = False
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (120, "-wide")]  # noqa: RUF012  # Textual declares it so
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q,ctrl+c", "quit", priority=False),
        Binding("question_mark", "help"),
        Binding("1", "sort('name')"),
        Binding("2", "sort('rate')"),
        Binding("3", "sort('size')"),
        Binding("4", "sort('age')"),
        Binding("slash", "ask('search')"),
        Binding("n", "search_again(1)"),
        Binding("N", "search_again(-1)"),
        Binding("f", "ask('filter')"),
        Binding("escape", "escape"),
        Binding("space", "freeze"),
        Binding("x", "shape"),
        Binding("c", "clear"),
        Binding("p", "publish"),
        Binding("d", "remove"),
        Binding("u", "undo"),
    ]

    def __init__(self, feed: Feed, retained: RetainedMessages, order: Order) -> None:
        super().__init__()
        self.feed = feed
        self.retained = retained
        self.news = ""
        """What the last line says."""
        self._view = TreeView(feed.tree, order)
        self._detail = DetailView()
        self._connection = connection_words(feed.settings)
        self._profile = local_profile(feed.settings)
        self._shape = Shape.AUTO
        self._search = ""
        self._asking = ""
        self._frozen_at: float | None = None
        self._frozen_received = 0
        self._frames = 0
        self._version = -1
        """The tree's version when the rows were chosen."""

    def compose(self) -> ComposeResult:
        """Build the screen."""
        yield Static(id="header")
        with Container(id="body"):
            with Vertical(id="left"):
                yield Static(id="title")
                yield self._view
            yield self._detail
        yield Input(id="question", compact=True)
        yield Static(id="status")

    def on_mount(self) -> None:
        """Start the timers."""
        self.query_one("#question").display = False
        self._view.now = self._now
        self._view.focus()
        self.set_interval(FRAME_SECONDS, self._frame)
        self.set_interval(TICK_SECONDS, self._tick)
        with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self.exit)
        self._tick()

    # --- drawing ------------------------------------------------------------------------------------------

    def _now(self) -> float:
        return time.monotonic() if self._frozen_at is None else self._frozen_at

    def _tick(self) -> None:
        """Compute rates, sort the rows, draw the header; once a second."""
        self.feed.tree.tick(time.monotonic())
        if self._frozen_at is None:
            if self._view.view.order is not Order.NAME:
                self._version = -1
            self._draw_rows()
            self._show_detail()
        self._show_texts()

    def _draw_rows(self) -> None:
        """Draw the rows; choose and sort them again only if that can change them."""
        version = self.feed.tree.version
        if version != self._version:
            self._version = version
            self._view.rebuild()
        self._view.refresh()

    def _frame(self) -> None:
        """Draw what has changed since the last frame."""
        if self._frozen_at is None and self.feed.changed.is_set():
            self.feed.changed.clear()
            self._draw_rows()
            self._frames += 1
            if self._frames % DETAIL_FRAMES == 0:
                self._show_detail()

    def _show_texts(self) -> None:
        frozen = None if self._frozen_at is None else self.feed.tree.received - self._frozen_received
        lines = header_lines(self.feed, self.size.width, profile=self._profile, view=self._view.view, frozen=frozen)
        self.query_one("#header", Static).update(Text("\n", no_wrap=True).join(lines), layout=False)
        title = Text(no_wrap=True)
        for segment in self._view.title():
            title.append(segment.text, segment.style)
        self.query_one("#title", Static).update(title, layout=False)
        fitting = [keys for keys in (KEYS, SHORT_KEYS) if len(keys) <= self.size.width]
        keys = fitting[0] if fitting else NARROW_KEYS
        status = Text(visible(self.news), style="bold", no_wrap=True) if self.news else Text(keys, "dim", no_wrap=True)
        self.query_one("#status", Static).update(status, layout=False)

    def _show_detail(self) -> None:
        node = self._view.cursor
        if node is None:
            self._detail.show([])
            return
        command = subscribe_command(branch_filter(node), self._connection)
        self._detail.show(
            detail_lines(node, self._now(), shape=self._shape, command=command, width=self._detail.content_width)
        )

    def on_resize(self) -> None:
        """Draw the texts for the new width."""
        self.call_after_refresh(self._show_texts)

    def on_tree_view_moved(self, event: TreeView.Moved) -> None:
        """Show the node under the cursor."""
        if self._frozen_at is None:
            self.feed.tree.watch(event.node)
        self._detail.scroll_to(0, 0, animate=False)
        self._show_detail()

    def say(self, text: str) -> None:
        """Show a sentence in the last line."""
        self.news = text
        self._show_texts()

    # --- keys ---------------------------------------------------------------------------------------------

    def action_help(self) -> None:
        """Show the keys."""
        self.push_screen(HelpDialog())

    def action_sort(self, order: str) -> None:
        """Sort by another column."""
        self._view.change_view(dataclasses.replace(self._view.view, order=Order(order)))
        self.say("")

    def action_escape(self) -> None:
        """Remove the message in the last line, then the filter."""
        if not self.news and self._view.view.wanted:
            self._view.change_view(dataclasses.replace(self._view.view, wanted=""))
        self.say("")

    def action_freeze(self) -> None:
        """Stop the view, or let it go on."""
        if self._frozen_at is None:
            self._frozen_at, self._frozen_received = time.monotonic(), self.feed.tree.received
            self._view.show(self.feed.tree.copy())
        else:
            self._frozen_at = None
            self._view.show(self.feed.tree)
            self.feed.tree.watch(self._view.cursor)
        self._tick()

    def action_shape(self) -> None:
        """Show payloads in the next form."""
        shapes = list(Shape)
        self._shape = shapes[(shapes.index(self._shape) + 1) % len(shapes)]
        self._show_detail()

    def action_clear(self) -> None:
        """Forget everything."""
        self.feed.tree.clear()
        self._view.show(self.feed.tree)
        self.say("cleared: retained messages come again only after a new start")

    # --- search and filter --------------------------------------------------------------------------------

    def action_ask(self, what: str) -> None:
        """Open the input line."""
        self._asking = what
        question = self.query_one("#question", Input)
        question.value = self._search if what == "search" else self._view.view.wanted
        question.placeholder = f"{what}: part of a topic name, or a topic filter; enter, escape"
        question.display = True
        question.focus()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Search, or filter."""
        if event.input.id != "question":
            return
        self._close_question()
        if self._asking == "filter":
            self._view.change_view(View(self._view.view.order, event.value.strip()))
            self._show_texts()
        else:
            self._search = event.value
            self.action_search_again(1)

    def on_key(self, event: object) -> None:
        """Close the input line on escape."""
        if getattr(event, "key", "") == "escape" and self.query_one("#question").display:
            self._close_question()

    def action_search_again(self, step: int) -> None:
        """Go to the next topic that matches the search."""
        if not self._search:
            self.action_ask("search")
        elif not self._view.search(topic_test(self._search), step):
            self.say(f"no topic matches {self._search!r}")

    def _close_question(self) -> None:
        self.query_one("#question").display = False
        self._view.focus()

    # --- publish, remove, undo ----------------------------------------------------------------------------

    @work
    async def action_publish(self) -> None:
        """Ask for a message and publish it."""
        topic = self._view.cursor.path if self._view.cursor else ""
        message = await self.push_screen_wait(PublishDialog(topic, self._connection))
        if message is not None:
            await self._attempt(lambda: self._publish(message))

    def _publish(self, message: Message) -> str:
        publish(self.feed.client, message)
        return f"published; the same: {publish_command(message, self._connection)}"

    @work
    async def action_remove(self) -> None:
        """Show the retained messages of the branch, and remove them if the user agrees."""
        if self._view.cursor is None:
            return
        topic_filter = branch_filter(self._view.cursor)
        self.say("reading the retained messages …")
        try:
            removal = await asyncio.to_thread(self.retained.prepare, topic_filter)
        except (MqttkitError, OSError) as error:
            self.say(str(error))
            return
        self.say("" if removal.count else f"no retained messages match {topic_filter!r}")
        if not removal.count:
            return
        agreed = await self.push_screen_wait(RemoveDialog(removal, self._connection))
        if agreed:
            await self._attempt(lambda: self._remove(removal))

    def _remove(self, removal: Removal) -> str:
        change = self.retained.remove(removal)
        command = remove_command(removal.topic_filter, self._connection)
        return f"{_outcome(change, 'removed')}; u undoes; the same: {command}"

    @work
    async def action_undo(self) -> None:
        """Restore what was removed last."""
        if self.retained.removed:
            await self._attempt(self._undo)
        else:
            self.say("nothing to undo")

    def _undo(self) -> str:
        return f"{_outcome(self.retained.undo(), 'restored')}; the same: {restore_command(self._connection)}"

    async def _attempt(self, action: Callable[[], str]) -> None:
        """Run an action that blocks in a thread; show its result or its error."""
        try:
            self.say(await asyncio.to_thread(action))
        except (MqttkitError, OSError) as error:
            self.say(str(error))


def branch_filter(node: TopicNode) -> str:
    """Return the topic filter of a topic, or of a branch with the topic itself."""
    return f"{node.path}/#" if node.children else node.path


def _outcome(change: Change, verb: str) -> str:
    if not change.refused:
        return f"{change.done:,} {verb}"
    topic, reason = next(iter(change.reasons.items()))
    return f"{change.done:,} {verb}, {change.refused:,} not, the first on {topic!r}: {reason}"
