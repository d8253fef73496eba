"""The table of `mqttkit controller watch`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

    from mqttkit.controller.status_book import StatusBook

COLUMNS = ("controller", "role", "region", "status", "last heartbeat", "transport", "reports", "refused", "policies")
COLOURS = {"online": "green", "offline": "red", "silent": "yellow"}


def cells(row: dict[str, Any]) -> list[str]:
    """Return a row's cells as text, in the order of COLUMNS."""
    policies = " ".join(f"{scope}:{version}" for scope, version in row["policies"].items())
    transport = row["transport"] + (f" ({row['hops']} hops)" if row["hops"] else "")
    return [
        *(row["controller"], row["role"], row["region"], row["status"], f"{row['last_heartbeat']:.1f} s"),
        *(transport, str(row["reports"]), str(row["refused"]), policies),
    ]


def live_table(book: StatusBook, changes: Iterable[object]) -> None:
    """Keep a table of the controllers on the terminal until the changes end."""
    from rich.live import Live

    with Live(get_renderable=lambda: _table(book), refresh_per_second=4):
        for _ in changes:
            pass


def _table(book: StatusBook) -> Table:
    from rich.table import Table
    from rich.text import Text

    refused = sum(book.refused.values())
    table = Table(*COLUMNS, title=f"{len(book.controllers)} controllers" + (f", {refused} refused" if refused else ""))
    for row in book.rows():
        texts = [Text(cell) for cell in cells(row)]
        texts[3].stylize(COLOURS.get(row["status"], ""))
        table.add_row(*texts)
    return table
