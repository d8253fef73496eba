"""Read a YAML file into a tree of nodes with lines. The only module that imports yaml, and only to read a file.

Scalars stay text and take their type from the setting: `client_id: 0123` keeps its zero, `password: no` stays text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from mqttkit.config.located_values import LocatedValue
from mqttkit.errors import ConfigError

if TYPE_CHECKING:
    import yaml

MAX_BYTES = 1024 * 1024
MAX_NODES = 100_000
MAX_DEPTH = 50
_NULL = ("", "~", "null", "Null", "NULL")
_REFERENCE = re.compile(r"(\$?)\$\{([^{}]*)\}")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def read_file(path: str, environ: Mapping[str, str], *, hint: str = "") -> LocatedValue:
    """Read a YAML file, and fill its ${NAME} references from `environ`.

    Raise ConfigError, with `hint` if the file cannot be read.
    """
    try:
        with Path(path).open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        cause = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise ConfigError(f"cannot read it: {cause}", where=path, hint=hint) from error
    if len(data) > MAX_BYTES:
        raise ConfigError(f"larger than {MAX_BYTES} bytes", where=path)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ConfigError("not UTF-8", where=f"{path}:{line}") from error
    return parse(text, path, environ)


def parse(text: str, path: str, environ: Mapping[str, str]) -> LocatedValue:
    """Return the document in `text` as nodes; `path` names it in errors. Raise ConfigError."""
    import yaml

    try:
        document = yaml.compose(text, Loader=_shallow_loader(path))
    except yaml.YAMLError as error:
        raise _syntax_error(error, path) from error
    except (ValueError, OverflowError) as error:  # "\UFFFFFFFF" reaches chr()
        raise ConfigError(f"not YAML: {error}", where=path) from error
    base = str(Path(path).parent)
    if document is None:
        return LocatedValue({}, path, base=base)
    return _Walk(path, base, environ).node(document, 0)


@dataclass
class _Walk:
    """One pass over a composed document; aliases are expanded, within MAX_NODES."""

    path: str
    base: str
    environ: Mapping[str, str]
    seen: int = field(default=0)

    def node(self, node: yaml.Node, depth: int) -> LocatedValue:
        import yaml

        where = f"{self.path}:{node.start_mark.line + 1}"
        self.seen += 1
        if depth > MAX_DEPTH or self.seen > MAX_NODES:
            raise ConfigError(f"nested deeper than {MAX_DEPTH}, or more than {MAX_NODES} values", where=where)
        if isinstance(node, yaml.ScalarNode):
            return self.scalar(node, where)
        if isinstance(node, yaml.SequenceNode):
            return LocatedValue(tuple(self.node(item, depth + 1) for item in node.value), where, base=self.base)
        return self.mapping(node, where, depth)

    def mapping(self, node: yaml.Node, where: str, depth: int) -> LocatedValue:
        entries: dict[str, LocatedValue] = {}
        for key, value in node.value:
            place = f"{self.path}:{key.start_mark.line + 1}"
            if not isinstance(key.value, str):
                raise ConfigError("a key must be a word", where=place)
            if key.value in entries:
                first = entries[key.value].where.rpartition(":")[2]
                raise ConfigError(f"{key.value!r} is already set in line {first}", where=place)
            found = self.node(value, depth + 1)
            entries[key.value] = LocatedValue(found.value, place, found.shown, base=self.base)
        return LocatedValue(entries, where, base=self.base)

    def scalar(self, node: yaml.ScalarNode, where: str) -> LocatedValue:
        text: str = node.value
        if node.style is None and text in _NULL:
            return LocatedValue(None, where, base=self.base)
        filled = _REFERENCE.sub(lambda match: self.reference(match, where), text)
        return LocatedValue(filled, where, repr(text), base=self.base)

    def reference(self, match: re.Match[str], where: str) -> str:
        """Return the value of ${NAME}; $${NAME} is the text ${NAME}."""
        if match[1]:
            return match[0][1:]
        name = match[2]
        if not _NAME.fullmatch(name):
            hint = "Write ${NAME}, or $${ for a plain ${"
            raise ConfigError(f"{match[0]!r} is not a reference", where=where, hint=hint)
        if name not in self.environ:
            raise ConfigError(f"environment variable {name} is not set", where=where)
        return self.environ[name]


def _shallow_loader(path: str) -> type[yaml.BaseLoader]:
    """Return a loader that stops at MAX_DEPTH, before deep nesting costs time or overflows the stack."""
    import yaml

    class Shallow(yaml.BaseLoader):
        depth = 0

        def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
            self.depth += 1
            if self.depth > MAX_DEPTH and parent is not None:
                where = f"{path}:{parent.start_mark.line + 1}"
                raise ConfigError(f"nested deeper than {MAX_DEPTH}", where=where)
            node = super().compose_node(parent, index)
            self.depth -= 1
            return node

    return Shallow


def _syntax_error(error: yaml.YAMLError, path: str) -> ConfigError:
    import yaml

    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        where = f"{path}:{error.problem_mark.line + 1}"
        return ConfigError(f"not YAML: {error.problem or error.context}", where=where)
    return ConfigError(f"not YAML: {' '.join(str(error).split())}", where=path)
