"""The table of `mqttkit controller watch`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from mqttkit.cli.output.render import live_widths

if TYPE_CHECKING:
    from rich.console import JustifyMethod
    from rich.table import Table

    from mqttkit.controller.status_book import StatusBook

COLUMNS = (
    *("controller", "role", "region", "status", "last heartbeat", "transport", "reports", "refused", "errors"),
    "policies",
)
NUMBERS = ("last heartbeat", "reports", "refused", "errors")
SHRINK = {"controller": 24, "transport": 4, "policies": 8, "region": 6}
DROP = ("errors", "policies", "role", "refused", "transport", "region", "reports")
"""What a narrow terminal leaves out, the first one first."""
COLOURS = {"online": "green", "offline": "red", "silent": "yellow"}


def cells(row: dict[str, Any]) -> list[str]:
    """Return a row's cells as text, in the order of COLUMNS. `!` marks a policy that the controller cannot apply."""
    applied = row["applied"].items()
    policies = " ".join(f"{one[0]}:{one[1]}{'' if one in applied else '!'}" for one in row["policies"].items())
    transport = row["transport"] + (f" ({row['hops']} hops)" if row["hops"] else "")
    return [
        *(row["controller"], row["role"], row["region"], row["status"], f"{row['last_heartbeat']:.1f} s"),
        *(
            transport,
            str(row["reports"]),
            str(row["refused"] + row["refused_here"]),
            str(row["store_errors"]),
            policies,
        ),
    ]


def live_table(book: StatusBook, changes: Iterable[object]) -> None:
    """Keep a table of the controllers on the terminal until the changes end."""
    from rich.console import Console
    from rich.live import Live

    console = Console()

    def render() -> Table:
        return table(book, console.height - 7, console.width)

    with Live(get_renderable=render, console=console, refresh_per_second=4):
        for _ in changes:
            pass


def table(book: StatusBook, rows: int, width: int) -> Table:
    """Return a table of at most `rows` controllers that fits into `width` cells."""
    from rich.table import Table
    from rich.text import Text

    lines = [(row["status"], cells(row)) for row in book.rows()]
    shown = lines[: max(rows, 1)]
    widths = live_widths(COLUMNS, [line for _, line in shown], width, shrink=SHRINK, drop=DROP)
    refused = sum(book.refused.values())
    table = Table(title=f"{len(book.controllers)} controllers" + (f", {refused} refused" if refused else ""))
    for index, size in widths.items():
        justify: JustifyMethod = "right" if COLUMNS[index] in NUMBERS else "left"
        table.add_column(COLUMNS[index], justify=justify, width=size, no_wrap=True)
    for status, line in shown:
        colour = COLOURS.get(status, "")
        table.add_row(*(Text(line[index], colour if COLUMNS[index] == "status" else "") for index in widths))
    if len(lines) > len(shown):
        table.caption = f"{len(lines) - len(shown)} more"
    return table
