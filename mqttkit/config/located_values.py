"""A value and the place that it came from, before it has a type. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Node:
    """One value of a file, an environment variable or a flag."""

    value: object
    """None, a scalar, a tuple of nodes, or a mapping from text to nodes."""
    where: str
    """`file:line`, `environment variable NAME`, `flag` or `profile`."""
    shown: str = ""
    """What an error may show in its place: the text as written, references unfilled."""
    splits: bool = False
    """True where commas part the items of a list: an environment variable."""
    base: str = ""
    """Directory that relative file names start from; empty: the working directory."""

    def __str__(self) -> str:
        return self.shown or _describe(self.value)


def wrap(value: object, where: str) -> Node:
    """Return `value`, as a flag or a profile gives it, as a node."""
    if isinstance(value, list | tuple):
        return Node(tuple(wrap(item, where) for item in value), where)
    if isinstance(value, Mapping):
        return Node({str(key): wrap(item, where) for key, item in value.items()}, where)
    return Node(value, where)


def _describe(value: object) -> str:
    if isinstance(value, tuple):
        return "a list"
    if isinstance(value, Mapping):
        return "a section"
    return "nothing" if value is None else repr(value)
