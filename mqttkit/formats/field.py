"""One value out of each JSON payload: `sub --field a.b.0`. Pure."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

from mqttkit.formats import Formatter
from mqttkit.messages import Message


class NoField(ValueError):
    """A payload does not have the value."""


def field_formatter(path: str, end: bytes, *, verbose: bool, on_missing: Callable[[str], None]) -> Formatter:
    """Return a formatter that prints the value at `path`, with the topic name in front if `verbose`.

    Text is printed without quotes, everything else as JSON. `on_missing` gets a sentence about each message that does
    not have the value; such a message prints nothing.
    """
    names = path.split(".")

    def write(messages: Sequence[Message], _when: int) -> bytes:
        parts: list[bytes] = []
        for message in messages:
            try:
                value = field_value(message.payload, names)
            except NoField as error:
                on_missing(f"no value {path!r} in the message on {message.topic!r}: {error}")
                continue
            head = message.topic_bytes + b" " if verbose else b""
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"))
            parts += (head, text.encode("utf-8", "backslashreplace"), end)
        return b"".join(parts)

    return write


def field_value(payload: bytes, names: Sequence[str]) -> object:
    """Return the value at a path of member names and list positions; raise NoField."""
    try:
        value = json.loads(payload)
    except (ValueError, RecursionError) as error:
        raise NoField("the payload is not JSON") from error
    for name in names:
        if isinstance(value, dict) and name in value:
            value = value[name]
        elif isinstance(value, list) and name.isascii() and name.isdigit() and int(name) < len(value):
            value = value[int(name)]
        else:
            raise NoField(f"{name!r} is missing")
    return value
