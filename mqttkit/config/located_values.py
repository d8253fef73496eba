"""A value and its source, before it has a type. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class LocatedValue:
    """One value of a file, an environment variable or a flag."""

    value: object
    """None, a scalar, a tuple of nodes, or a mapping from text to nodes."""
    where: str
    """`file:line`, `environment variable NAME`, `flag`, an option's name, or `profile`."""
    shown: str = ""
    """What an error shows instead of the value: the text as written, with references unresolved."""
    splits: bool = False
    """True if commas separate the items of a list: an environment variable."""
    base: str = ""
    """Directory for relative file names; empty: the working directory."""

    def __str__(self) -> str:
        return self.shown or _describe(self.value)


def given(value: object, where: str) -> LocatedValue:
    """Return the value of a flag or a profile as a node; `where` names its source in errors, such as `--sink`."""
    if isinstance(value, LocatedValue):
        return value
    if isinstance(value, list | tuple):
        return LocatedValue(tuple(given(item, where) for item in value), where)
    if isinstance(value, Mapping):
        return LocatedValue({str(key): given(item, where) for key, item in value.items()}, where)
    return LocatedValue(value, where)


def _describe(value: object) -> str:
    if isinstance(value, tuple):
        return "a list"
    if isinstance(value, Mapping):
        return "a section"
    return "nothing" if value is None else repr(value)
