"""The tree of all settings, read from the dataclasses. Pure."""

from __future__ import annotations

import typing
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from functools import cache
from typing import Any

from mqttkit.settings import Settings
from mqttkit.settings.rules import ValueRule, field_rules


@dataclass(frozen=True)
class Leaf:
    """A setting with a value."""

    path: str
    """Dotted path such as mqtt.broker.port."""
    kind: Any
    """Type of the value, without None."""
    optional: bool
    """True if null is a value."""
    default: Any
    secret: bool
    """True if no output may show the value: the field has repr=False."""
    rule: ValueRule | None = None

    @property
    def variable(self) -> str:
        """Name of the environment variable that sets it."""
        return "MQTTKIT_" + self.path.replace(".", "_").upper()


@dataclass(frozen=True)
class Section:
    """A group of settings: a dataclass, and its place in the tree."""

    path: str
    """Dotted path; empty for the root."""
    cls: Any
    optional: bool
    """True if the whole section may be null."""
    children: tuple[Leaf | Section, ...]

    def leaves(self) -> Iterator[Leaf]:
        """Yield each setting in this section, in the order of the fields."""
        for child in self.children:
            if isinstance(child, Section):
                yield from child.leaves()
            else:
                yield child

    def sections(self) -> Iterator[Section]:
        """Yield this section and each section in it."""
        yield self
        for child in self.children:
            if isinstance(child, Section):
                yield from child.sections()

    def child(self, name: str) -> Leaf | Section | None:
        """Return the setting or section with this name."""
        return next((child for child in self.children if key_of(child) == name), None)


@cache
def root() -> Section:
    """Return the tree of all settings."""
    return describe(Settings)


def describe(cls: Any, path: str = "", optional: bool = False) -> Section:
    """Return the tree of a dataclass whose dotted path is `path`."""
    children = (_child(cls, item, path) for item in fields(cls))
    return Section(path, cls, optional, tuple(children))


def key_of(child: Leaf | Section) -> str:
    """Return the last part of its path."""
    return child.path.rpartition(".")[2]


def is_mapping(kind: Any) -> bool:
    """Return whether the type is `dict[str, X]` or `Mapping[str, X]`."""
    return typing.get_origin(kind) in (dict, Mapping)


def default_of(item: Field[Any]) -> Any:
    """Return the default of a field; MISSING if it has none."""
    return item.default_factory() if item.default_factory is not MISSING else item.default


def _child(cls: Any, item: Field[Any], path: str) -> Leaf | Section:
    found = field_rules(cls)[item.name]
    full = f"{path}.{item.name}" if path else item.name
    if is_dataclass(found.kind):
        return describe(found.kind, full, found.optional)
    return Leaf(full, found.kind, found.optional, default_of(item), not item.repr, found.rule)
