"""What `mqttkit controller watch` shows."""

from __future__ import annotations

import json
import queue
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mqttkit.cli.render import on_terminal, print_table
from mqttkit.cli.signals import on_interrupt
from mqttkit.client import MqttClient
from mqttkit.controller.controller import open_codec
from mqttkit.controller.messages.topics import Topics
from mqttkit.controller.status_book import StatusBook
from mqttkit.messages import Message, Subscription
from mqttkit.settings import Settings

if TYPE_CHECKING:
    from rich.table import Table

COLUMNS = ("controller", "role", "region", "status", "last heartbeat", "transport", "reports", "refused", "policies")
_TICK = 0.25


def watch_controllers(settings: Settings, *, as_json: bool, once: bool, duration: float | None) -> None:
    """Follow the heartbeats until `duration` seconds are over or a signal comes."""
    topics = Topics(settings.controller.base)
    book = StatusBook(topics, open_codec(settings.controller, signs=False))
    inbox: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
    with MqttClient(settings.mqtt, on_message=inbox.put) as client, on_interrupt(lambda: inbox.put(None)):
        client.connect()
        client.subscribe(Subscription(topics.status_filter(), qos=0))
        if on_terminal() and not as_json and not once:
            _live(inbox, book, duration)
        else:
            _follow(inbox, book, duration, _silent if once else _as_json if as_json else _as_line)
    if once and as_json:
        for row in book.rows():
            sys.stdout.write(json.dumps(row) + "\n")
    elif once:
        print_table(COLUMNS, [cells(row) for row in book.rows()])


def cells(row: dict[str, Any]) -> list[str]:
    """Return a row's cells as text, in the order of COLUMNS."""
    policies = " ".join(f"{scope}:{version}" for scope, version in row["policies"].items())
    transport = row["transport"] + (f" ({row['hops']} hops)" if row["hops"] else "")
    return [
        *(row["controller"], row["role"], row["region"], row["status"], f"{row['last_heartbeat']:.1f} s"),
        *(transport, str(row["reports"]), str(row["refused"]), policies),
    ]


def _follow(
    inbox: queue.SimpleQueue[Message | None],
    book: StatusBook,
    duration: float | None,
    show: Callable[[dict[str, Any]], None],
) -> None:
    """Show each controller when it is heard."""
    end = None if duration is None else time.monotonic() + duration
    while end is None or time.monotonic() < end:
        try:
            message = inbox.get(timeout=_TICK if end is None else max(0.0, min(_TICK, end - time.monotonic())))
        except queue.Empty:
            continue
        if message is None:
            return
        seen = book.note(message.topic, message.payload)
        if seen is not None:
            show(next(row for row in book.rows() if row["controller"] == seen.controller_id))


def _live(inbox: queue.SimpleQueue[Message | None], book: StatusBook, duration: float | None) -> None:
    """Keep a table on the terminal."""
    from rich.live import Live

    with Live(get_renderable=lambda: _table(book), refresh_per_second=4):
        _follow(inbox, book, duration, _silent)


def _table(book: StatusBook) -> Table:
    from rich.table import Table
    from rich.text import Text

    colours = {"online": "green", "offline": "red", "silent": "yellow"}
    refused = sum(book.refused.values())
    table = Table(*COLUMNS, title=f"{len(book.controllers)} controllers" + (f", {refused} refused" if refused else ""))
    for row in book.rows():
        texts = [Text(cell) for cell in cells(row)]
        texts[3].stylize(colours.get(row["status"], ""))
        table.add_row(*texts)
    return table


def _silent(_row: dict[str, Any]) -> None:
    """Show nothing now."""


def _as_json(row: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(row) + "\n")
    sys.stdout.flush()


def _as_line(row: dict[str, Any]) -> None:
    sys.stdout.write("  ".join(cell for cell in cells(row) if cell) + "\n")
    sys.stdout.flush()
