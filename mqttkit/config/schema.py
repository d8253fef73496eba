"""What settings there are, read off the dataclasses themselves. Pure."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from functools import cache
from typing import Any

from mqttkit.settings import Settings


@dataclass(frozen=True)
class Leaf:
    """One setting that has a value, not settings beneath it."""

    path: str
    """Dotted path such as mqtt.broker.port."""
    kind: Any
    """Type of the value, without None."""
    optional: bool
    """True where null is a value."""
    default: Any
    secret: bool
    """True where the value is shown to nobody: the field has repr=False."""

    @property
    def variable(self) -> str:
        """Name of the environment variable that sets it."""
        return "MQTTKIT_" + self.path.replace(".", "_").upper()


@dataclass(frozen=True)
class Section:
    """A dataclass and where it stands."""

    path: str
    """Dotted path; empty for the root."""
    cls: Any
    optional: bool
    """True where the whole section may be null."""
    children: tuple[Leaf | Section, ...]

    def leaves(self) -> Iterator[Leaf]:
        """Give each setting beneath, in the order of the fields."""
        for child in self.children:
            if isinstance(child, Section):
                yield from child.leaves()
            else:
                yield child

    def sections(self) -> Iterator[Section]:
        """Give this section and each one beneath."""
        yield self
        for child in self.children:
            if isinstance(child, Section):
                yield from child.sections()

    def child(self, name: str) -> Leaf | Section | None:
        """Return the setting or section `name` of this one."""
        return next((child for child in self.children if key_of(child) == name), None)


@cache
def root() -> Section:
    """Return the tree of all settings."""
    return describe(Settings)


def describe(cls: Any, path: str = "", optional: bool = False) -> Section:
    """Return the tree of a dataclass that stands at `path`."""
    hints = typing.get_type_hints(cls)
    children = (_child(item, hints[item.name], path) for item in fields(cls))
    return Section(path, cls, optional, tuple(children))


def key_of(child: Leaf | Section) -> str:
    """Return the last part of its path."""
    return child.path.rpartition(".")[2]


def split_optional(hint: Any) -> tuple[Any, bool]:
    """Split `X | None` into (X, True); anything else is (hint, False)."""
    if typing.get_origin(hint) not in (typing.Union, types.UnionType):
        return hint, False
    rest = [part for part in typing.get_args(hint) if part is not type(None)]
    if len(rest) != 1 or len(rest) == len(typing.get_args(hint)):
        raise TypeError(f"settings know no union but X | None, not {hint}")
    return rest[0], True


def is_mapping(kind: Any) -> bool:
    """Tell whether the type is `dict[str, X]` or `Mapping[str, X]`."""
    return typing.get_origin(kind) in (dict, Mapping)


def default_of(item: Field[Any]) -> Any:
    """Return the default of a field; MISSING where there is none."""
    return item.default_factory() if item.default_factory is not MISSING else item.default


def _child(item: Field[Any], hint: Any, path: str) -> Leaf | Section:
    kind, optional = split_optional(hint)
    full = f"{path}.{item.name}" if path else item.name
    if is_dataclass(kind):
        return describe(kind, full, optional)
    return Leaf(full, kind, optional, default_of(item), not item.repr)
