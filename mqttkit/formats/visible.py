"""Text from the network, made safe for a terminal: control characters become escapes such as `\\x1b`. Pure.

A terminal obeys control characters: they can clear the screen, change its title or reorder text. Everything that is not
printable is escaped, so bidirectional marks, zero-width characters and lone surrogates are too.
"""

from __future__ import annotations

import json

from mqttkit.formats import Formatter

_KEPT_IN_LINES = "\n\t"


def visible(text: str) -> str:
    """Return `text` on one line, with each character that is not printable as an escape."""
    if text.isprintable():
        return text
    return "".join([character if character.isprintable() else _escape(character) for character in text])


def visible_lines(text: str) -> str:
    """Return `text` as `visible` does, but keep line feeds and tabs."""
    if text.isprintable():
        return text
    return "".join(
        [
            character if character.isprintable() or character in _KEPT_IN_LINES else _escape(character)
            for character in text
        ]
    )


def visible_bytes(data: bytes) -> bytes:
    """Return `data` as UTF-8 that a terminal can show: `visible_lines`, with bytes that are not UTF-8 as `\\xff`."""
    return visible_lines(data.decode("utf-8", "surrogateescape")).encode()


def _escape(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that was not UTF-8: see Message.topic
        code -= 0xDC00
    known = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}.get(character)
    if known:
        return known
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def visible_json(text: str) -> str:
    """Return JSON text with `\\u` escapes for unprintable characters, except line feeds. Its value is the same."""
    if text.isprintable():
        return text
    return "".join(
        [
            character if character.isprintable() or character == "\n" else json.dumps(character)[1:-1]
            for character in text
        ]
    )


def terminal_formatter(formatter: Formatter) -> Formatter:
    """Return a formatter whose output a terminal can show: see `visible_bytes`."""
    return lambda messages, when: visible_bytes(formatter(messages, when))
