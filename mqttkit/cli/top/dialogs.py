"""Dialogs of the live view: publish, remove retained messages, help."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Button, Input, Label, Select, Static

from mqttkit.errors import TopicError
from mqttkit.formats.visible import visible
from mqttkit.live.actions import Removal, publish_command, remove_command
from mqttkit.messages import Message
from mqttkit.topics import check_topic_name

SHOWN = 100
"""Topics that the preview names."""
RETAIN = [("not retained", False), ("retained", True)]

HELP = """\
Move        arrows or h j k l, page up/down, home, end
Branches    enter or right opens, left closes, + all, - none
Sort        1 name   2 rate   3 size   4 age
Find        / searches, n next, N previous
Filter      f shows only topics that match; escape removes it
Freeze      space stops the view; messages are still counted
Payload     x changes the form: auto, text, hex
            tab goes to the pane, arrows scroll it
Publish     p publishes a message
Retained    d removes the branch's retained messages, u undoes
Clear       c forgets everything received so far
Quit        q

msg/s       messages per second, averaged over about 3 s
bytes       size of the latest payload; of a branch: the sum
R           the broker retains the message
A branch adds up the topics below it."""


class Dialog(ModalScreen[None]):
    """A dialog that escape closes."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "dismiss(None)", "Close")]


class HelpDialog(Dialog):
    """The keys and the columns."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("question_mark,q", "dismiss(None)", "Close")]

    def compose(self) -> ComposeResult:
        """Build the dialog."""
        with VerticalScroll(classes="dialog"):
            yield Static(Text(HELP))


class PublishDialog(ModalScreen["Message | None"]):
    """Asks for a message; returns it, or None."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "dismiss(None)", "Cancel")]

    def __init__(self, topic: str, connection: Sequence[str]) -> None:
        super().__init__()
        self._topic, self._connection = topic, connection

    def compose(self) -> ComposeResult:
        """Build the dialog."""
        with Vertical(classes="dialog"):
            yield Label("Publish", classes="heading")
            yield Input(self._topic, placeholder="topic", id="topic", compact=True)
            yield Input(placeholder="payload", id="payload", compact=True)
            with Horizontal(classes="row"):
                yield Select(
                    [("QoS 0", 0), ("QoS 1", 1), ("QoS 2", 2)], value=1, allow_blank=False, id="qos", compact=True
                )
                yield Select(RETAIN, value=False, allow_blank=False, id="retain", compact=True)
            yield Static(id="command", classes="command")
            with Horizontal(classes="row"):
                yield Button("Publish", id="send", variant="primary", compact=True)
                yield Button("Cancel", id="cancel", compact=True)

    def on_mount(self) -> None:
        """Show the command."""
        self.query_one("#payload" if self._topic else "#topic", Input).focus()
        self._show_command()

    def on_input_changed(self) -> None:
        """Show the command that does the same."""
        self._show_command()

    def on_select_changed(self) -> None:
        """Show the command that does the same."""
        self._show_command()

    def on_input_submitted(self) -> None:
        """Publish on enter."""
        self._send()

    def on_button_pressed(self, event: Button.Pressed) -> None:
        """Publish or cancel."""
        if event.button.id == "send":
            self._send()
        else:
            self.dismiss(None)

    def _send(self) -> None:
        message = self._message()
        try:
            check_topic_name(message.topic)
        except TopicError as error:
            self.query_one("#command", Static).update(Text(visible(str(error)), style="red"))
            return
        self.dismiss(message)

    def _message(self) -> Message:
        payload = self.query_one("#payload", Input).value.encode("utf-8", "surrogateescape")
        qos = self.query_one("#qos", Select).value
        retain = self.query_one("#retain", Select).value is True
        return Message(self.query_one("#topic", Input).value, payload, int(str(qos)), retain)

    def _show_command(self) -> None:
        command = publish_command(self._message(), self._connection)
        self.query_one("#command", Static).update(Text("$ " + visible(command)))


class RemoveDialog(ModalScreen[bool]):
    """Shows the retained messages of a branch and asks whether to remove them."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,n", "dismiss(False)", "Keep"),
        Binding("y", "dismiss(True)", "Remove"),
    ]

    def __init__(self, removal: Removal, connection: Sequence[str]) -> None:
        super().__init__()
        self._removal, self._connection = removal, connection

    def compose(self) -> ComposeResult:
        """Build the dialog."""
        removal = self._removal
        lines = [f"{visible(one.topic)}  {len(one.payload):,} bytes" for one in removal.preview[:SHOWN]]
        if removal.count > len(lines):
            lines.append(f"and {removal.count - len(lines):,} more")
        with Vertical(classes="dialog"):
            yield Label(Text(f"Remove {removal.count:,} retained messages?"), classes="heading")
            with VerticalScroll(classes="preview"):
                yield Static(Text("\n".join(lines)))
            yield Static(Text("They are saved: u restores them until you quit."), classes="note")
            yield Static(
                Text("$ " + visible(remove_command(removal.topic_filter, self._connection))), classes="command"
            )
            with Horizontal(classes="row"):
                yield Button("Keep (n)", id="keep", variant="primary", compact=True)
                yield Button("Remove (y)", id="remove", variant="error", compact=True)

    def on_button_pressed(self, event: Button.Pressed) -> None:
        """Answer."""
        self.dismiss(event.button.id == "remove")
