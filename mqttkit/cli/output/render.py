"""Results on stdout: bytes, JSON, tables. Imports rich on a terminal only."""

from __future__ import annotations

import contextlib
import io
import json
import select
import stat
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from os import fstat
from typing import Any

from mqttkit.formats import Formatter
from mqttkit.messages import Message

BLOCK_BYTES = 64 * 1024
"""Output is written once this much is buffered, or when no more input waits."""


def on_terminal() -> bool:
    """Return whether stdout is a terminal."""
    return sys.stdout.isatty()


class Output:
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
    """Return a formatter for indented JSON, coloured on a terminal."""
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
                console.print_json(json.dumps(to_object(message, when)), ensure_ascii=False)
        return capture.get().encode("utf-8", "backslashreplace")

    return write


def print_json(value: Any) -> None:
    """Print `value` as JSON: one line in a pipe, indented and coloured on a terminal."""
    if on_terminal():
        from rich.console import Console

        Console().print_json(json.dumps(value), ensure_ascii=False)
    else:
        sys.stdout.write(json.dumps(value, ensure_ascii=False) + "\n")


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table: with lines on a terminal, as aligned text in a pipe."""
    if on_terminal():
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(*columns)
        for row in rows:
            table.add_row(*[Text(str(cell)) for cell in row])  # a plain str would be taken for markup
        Console().print(table)
        return
    lines = [[str(cell) for cell in row] for row in (columns, *rows)]
    widths = [max(len(line[index]) for line in lines) for index in range(len(columns))]
    for line in lines:
        text = "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        sys.stdout.write(text.rstrip() + "\n")
