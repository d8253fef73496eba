"""Convert untyped nodes to typed values. Pure."""

from __future__ import annotations

import math
import re
import typing
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Any

from mqttkit.config.located_values import LocatedValue
from mqttkit.config.schema import default_of, is_mapping
from mqttkit.settings.rules import describe_type, split_optional

_WHOLE = re.compile(r"[+-]?[0-9]{1,30}", re.ASCII)
_TRUE = ("true", "yes", "on", "1")
_FALSE = ("false", "no", "off", "0")


class Mismatch(ValueError):
    """A node has a value that a setting cannot take: `expected` says what it can take, `node` has the place."""

    def __init__(self, expected: str, node: LocatedValue) -> None:
        super().__init__(expected)
        self.expected = expected
        self.node = node


class Surplus(ValueError):
    """A mapping has a key that its dataclass lacks."""

    def __init__(self, key: str, known: tuple[str, ...], node: LocatedValue) -> None:
        super().__init__(key)
        self.key = key
        self.known = known
        self.node = node


def convert(hint: Any, node: LocatedValue) -> Any:
    """Return the node's value as the type `hint`; raise Mismatch or Surplus."""
    kind, optional = split_optional(hint)
    if node.value is None:
        if optional:
            return None
        raise Mismatch(f"must be {describe_type(kind)}", node)
    if kind in _SCALARS:
        return _SCALARS[kind](node)
    if typing.get_origin(kind) is tuple:
        return tuple(convert(typing.get_args(kind)[0], item) for item in _items(node))
    if typing.get_origin(kind) is typing.Literal:
        return _literal(kind, node)
    if is_mapping(kind):
        return {key: convert(typing.get_args(kind)[1], item) for key, item in _entries(node).items()}
    if is_dataclass(kind):
        return _instance(kind, node)
    raise TypeError(f"settings do not support the type {kind}")


def _bool(node: LocatedValue) -> bool:
    if isinstance(node.value, bool):
        return node.value
    text = node.value.lower() if isinstance(node.value, str) else ""
    if text not in _TRUE + _FALSE:
        raise Mismatch("must be true or false", node)
    return text in _TRUE


def _int(node: LocatedValue) -> int:
    value = node.value
    if isinstance(value, int) and not isinstance(value, bool):
        return int(value)
    if not isinstance(value, str) or not _WHOLE.fullmatch(value):
        raise Mismatch("must be a whole number", node)
    return int(value)


def _float(node: LocatedValue) -> float:
    value = node.value
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise Mismatch("must be a number", node)
    try:
        number = float(value)
    except (ValueError, OverflowError) as error:
        raise Mismatch("must be a number", node) from error
    if not math.isfinite(number):
        raise Mismatch("must be a finite number", node)
    return number


def _str(node: LocatedValue) -> str:
    if isinstance(node.value, bool) or not isinstance(node.value, str | int | float):
        raise Mismatch("must be text", node)
    text = str(node.value)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise Mismatch("must be valid Unicode", node) from error
    return text


_SCALARS: dict[Any, Callable[[LocatedValue], Any]] = {bool: _bool, int: _int, float: _float, str: _str}


def _items(node: LocatedValue) -> tuple[LocatedValue, ...]:
    if isinstance(node.value, tuple):
        return node.value
    if node.splits and isinstance(node.value, str):
        parts = (part.strip() for part in node.value.split(","))
        return tuple(LocatedValue(part, node.where, node.shown) for part in parts if part)
    raise Mismatch("must be a list, such as [one, two]", node)


def _entries(node: LocatedValue) -> Mapping[str, LocatedValue]:
    if not isinstance(node.value, Mapping):
        raise Mismatch("must be a section", node)
    return node.value


def _literal(kind: Any, node: LocatedValue) -> Any:
    for choice in typing.get_args(kind):
        if str(choice) == str(node.value):
            return choice
    raise Mismatch(f"must be {describe_type(kind)}", node)


def _instance(cls: Any, node: LocatedValue) -> Any:
    """Build a dataclass that is an item of a list or of a mapping."""
    entries = _entries(node)
    hints = typing.get_type_hints(cls)
    for key, entry in entries.items():
        if key not in hints:
            raise Surplus(key, tuple(hints), entry)
    for item in fields(cls):
        if item.name not in entries and default_of(item) is MISSING:
            raise Mismatch(f"needs {item.name}", node)
    values = {key: convert(hints[key], entry) for key, entry in entries.items()}
    try:
        return cls(**values)
    except ValueError as error:
        raise Mismatch(str(error), node) from error
