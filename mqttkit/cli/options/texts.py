"""Text and bytes on the command line that MQTT can send: valid Unicode, at most 65,535 bytes (MQTT 5, 1.5.4)."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    TextType = click.ParamType[str]
    BytesType = click.ParamType[bytes]
else:
    TextType = BytesType = click.ParamType  # not generic before Click 8.3

MAX_BYTES = 65_535


class Text(TextType):
    """A UTF-8 string; `name` is what the help shows. Errors never show the value: it may be a secret."""

    def __init__(self, name: str) -> None:
        self.name = name

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the text, or end with a usage error."""
        try:
            size = len(str(value).encode())
        except UnicodeEncodeError:
            self.fail("must be valid UTF-8.", param, ctx)
        if "\0" in value:
            self.fail("must not contain NUL.", param, ctx)
        if size > MAX_BYTES:
            self.fail(f"has {size} bytes; MQTT allows {MAX_BYTES}.", param, ctx)
        return str(value)


class Bytes(BytesType):
    """Any bytes; `name` is what the help shows."""

    def __init__(self, name: str) -> None:
        self.name = name

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> bytes:
        """Return the bytes, or end with a usage error."""
        data = value if isinstance(value, bytes) else os.fsencode(value)
        if len(data) > MAX_BYTES:
            self.fail(f"has {len(data)} bytes; MQTT allows {MAX_BYTES}.", param, ctx)
        return data
