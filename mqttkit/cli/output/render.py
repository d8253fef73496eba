"""Results on stdout: bytes, JSON, tables. Imports rich on a terminal only."""

from __future__ import annotations

import contextlib
import io
import json
import re
import select
import stat
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from os import fstat
from typing import TYPE_CHECKING, Any

from mqttkit.formats import Formatter
from mqttkit.formats.visible import visible, visible_json
from mqttkit.messages import Message

if TYPE_CHECKING:
    from rich.console import Console, JustifyMethod

BLOCK_BYTES = 64 * 1024
"""Output is written once this much is buffered, or when no more input waits."""
BORDER = 3
"""Cells between two columns of a table."""
_NUMBER = re.compile(r"-?[\d,.]+( ?(s|ms|%|B|KB|MB|KiB|MiB))?")


def on_terminal() -> bool:
    """Return whether stdout is a terminal."""
    return sys.stdout.isatty()


class StandardOutput:
    """Writes bytes to stdout, with no buffer that could fail at exit. Raises OSError if stdout cannot be written."""

    def __init__(self) -> None:
        sys.stdout.flush()
        buffered = sys.stdout.buffer
        self._stream: Any = getattr(buffered, "raw", buffered)
        self._parts: list[bytes] = []
        self._size = 0

    def write(self, data: bytes) -> None:
        """Buffer `data`; write once there is a block."""
        self._parts.append(data)
        self._size += len(data)
        if self._size >= BLOCK_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write the buffer."""
        rest = memoryview(self._parts[0] if len(self._parts) == 1 else b"".join(self._parts))
        self._parts.clear()
        self._size = 0
        while rest:
            written = self._stream.write(rest)
            if written is None:
                select.select([], [self._stream], [])
            else:
                rest = rest[written:]


@contextlib.contextmanager
def watch_reader(action: Callable[[], None]) -> Iterator[None]:
    """Call `action`, in a separate thread, when the reader of stdout exits, even if nothing is being written."""
    with contextlib.suppress(io.UnsupportedOperation, OSError):
        descriptor = sys.stdout.fileno()
        mode = fstat(descriptor).st_mode
        if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode):
            threading.Thread(target=_watch, args=(descriptor, action), name="mqttkit-stdout", daemon=True).start()
    yield


def _watch(descriptor: int, action: Callable[[], None]) -> None:
    watcher = select.poll()
    watcher.register(descriptor, 0)
    watcher.poll()
    action()


def pretty_json_formatter() -> Formatter:
    """Return a formatter for indented JSON. On a terminal it is coloured, and a JSON payload is shown as JSON."""
    from mqttkit.formats.jsonlines import to_object

    if not on_terminal():
        return lambda messages, when: b"".join(
            json.dumps(to_object(message, when), ensure_ascii=False, indent=2).encode() + b"\n" for message in messages
        )
    from rich.console import Console

    console = Console()

    def write(messages: Sequence[Message], when: int) -> bytes:
        with console.capture() as capture:
            for message in messages:
                _print_coloured(console, _with_json_payload(to_object(message, when)))
        return capture.get().encode("utf-8", "backslashreplace")

    return write


def _with_json_payload(line: dict[str, Any]) -> dict[str, Any]:
    """Replace a payload that is a JSON object or array by its value."""
    text = str(line.get("payload", "")).lstrip()
    if text.startswith(("{", "[")):
        with contextlib.suppress(ValueError, RecursionError):
            line["payload"] = json.loads(text)
    return line


def print_json(value: Any) -> None:
    """Print `value` as JSON: one line in a pipe, indented and coloured on a terminal."""
    if on_terminal():
        from rich.console import Console

        _print_coloured(Console(), value)
    else:
        sys.stdout.write(json.dumps(value, ensure_ascii=False) + "\n")


def _print_coloured(console: Console, value: Any) -> None:
    from rich.highlighter import JSONHighlighter
    from rich.text import Text

    text = visible_json(json.dumps(value, ensure_ascii=False, indent=2))
    console.print(JSONHighlighter()(Text(text)), soft_wrap=True)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]], *, optional: Sequence[str] = ()) -> None:
    """Print a table: drawn to fit a terminal, as aligned text in a pipe.

    On a terminal that is too narrow, the columns named in `optional` are left out, the first one first; then the widest
    texts are shortened. Numbers are right-aligned, and control characters are escaped.
    """
    lines = [[str(cell) for cell in row] for row in rows]
    if on_terminal():
        _draw_table(columns, [[visible(cell) for cell in line] for line in lines], optional)
        return
    lines = [list(columns), *lines]
    widths = [max(len(line[index]) for line in lines) for index in range(len(columns))]
    for line in lines:
        text = "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        sys.stdout.write(text.rstrip() + "\n")


def _draw_table(columns: Sequence[str], lines: list[list[str]], optional: Sequence[str]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    widths = fitting_widths(columns, lines, optional, console.width)
    table = Table()
    for index, width in widths.items():
        numeric = bool(lines) and all(_NUMBER.fullmatch(line[index]) or not line[index] for line in lines)
        justify: JustifyMethod = "right" if numeric else "left"
        table.add_column(columns[index], justify=justify, width=width, no_wrap=True, overflow="ellipsis")
    for line in lines:
        table.add_row(*[Text(line[index]) for index in widths])  # a plain str would be taken for markup
    console.print(table)
    left_out = [column for index, column in enumerate(columns) if index not in widths]
    if left_out:
        console.print(Text(f"not shown, the terminal is too narrow: {', '.join(left_out)}", style="dim"))


def fitting_widths(
    columns: Sequence[str], lines: Sequence[Sequence[str]], optional: Sequence[str], width: int
) -> dict[int, int]:
    """Return the width of each column, by its number, so that the table fits into `width` cells.

    The `optional` columns are dropped as needed; then the widest columns are narrowed.
    """
    from rich.cells import cell_len

    natural = [max(map(cell_len, column), default=0) for column in zip(columns, *lines, strict=True)]
    widths = dict(enumerate(natural))
    room = width - 1 - BORDER * len(widths)
    for name in optional:
        if sum(widths.values()) <= room:
            break
        del widths[list(columns).index(name)]
        room += BORDER
    while sum(widths.values()) > max(room, len(widths)):
        widest = max(widths, key=lambda index: widths[index])
        widths[widest] -= 1
    return widths


def live_widths(
    columns: Sequence[str],
    lines: Sequence[Sequence[str]],
    width: int,
    *,
    shrink: Mapping[str, int],
    drop: Sequence[str],
) -> dict[int, int]:
    """Return the width of each column of a live table, by its number, so that the table fits into `width` cells.

    The columns of `shrink` are narrowed first, the widest one first, each at most to the width given. If that is not
    enough, the columns of `drop` are left out, the first one first.
    """
    from rich.cells import cell_len

    natural = dict(enumerate(max(map(cell_len, column), default=0) for column in zip(columns, *lines, strict=True)))
    for dropped in range(len(drop) + 1):
        widths = {index: size for index, size in natural.items() if columns[index] not in drop[:dropped]}
        excess = sum(widths.values()) + BORDER * len(widths) + 1 - width
        while excess > 0:
            spare = {index: size for index, size in widths.items() if size > shrink.get(columns[index], size)}
            if not spare:
                break
            widths[max(spare, key=lambda index: spare[index])] -= 1
            excess -= 1
        if excess <= 0:
            break
    return widths
