"""Write settings as YAML: the commented file of `config init`, and the output of `config show`."""

from __future__ import annotations

import ast
import inspect
import json
import re
from collections.abc import Iterator
from dataclasses import is_dataclass
from functools import cache
from typing import Any

from mqttkit.config.load import Effective
from mqttkit.config.schema import Leaf, Section, key_of, root

MASK = "********"
HEAD = """\
# Settings of mqttkit. A line that begins with # and a word is a setting at its default: remove the # to
# change it. Flags and MQTTKIT_... environment variables override this file. ${NAME} in a value is replaced by the
# environment variable NAME: keep passwords there, or in a password_file, not here.
# Check with: mqttkit config check
"""
_PLAIN = re.compile(r"[A-Za-z0-9_/][A-Za-z0-9_./@+-]*")
_NOT_TEXT = re.compile(r"(?i)null|true|false|yes|no|on|off|max|[+-]?[0-9._]+(e[+-]?[0-9]+)?|[-.+]+.*")


def commented() -> str:
    """Return mqttkit.yaml with each setting commented out at its default, under its description."""
    return HEAD + "\n".join(_commented(root(), 0)) + "\n"


def show(effective: Effective) -> str:
    """Return the settings as YAML, each line with its source; secrets are masked."""
    lines = list(_shown(root(), effective.settings, effective, 0))
    width = min(max(len(line) for line, _ in lines), 60)
    return "".join(f"{line:<{width}}  # {origin}\n" if origin else f"{line}\n" for line, origin in lines)


def rows(effective: Effective) -> Iterator[dict[str, object]]:
    """Yield path, value and origin of each setting; secrets are masked."""
    for leaf in root().leaves():
        value: Any = effective.settings
        for part in leaf.path.split("."):
            value = getattr(value, part, None)
        masked = MASK if leaf.secret and value else value
        yield {"path": leaf.path, "value": masked, "origin": effective.origins[leaf.path]}


def scalar(value: object) -> str:
    """Return a value as YAML on one line."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, tuple | list):
        return f"[{', '.join(scalar(item) for item in value)}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{scalar(key)}: {scalar(item)}' for key, item in value.items())}}}"
    text = str(value)
    return text if _PLAIN.fullmatch(text) and not _NOT_TEXT.fullmatch(text) else _quoted(text)


def _quoted(text: str) -> str:
    """Return text in double quotes; a text that looks like a reference gets another $, so that it stays text."""
    escaped = json.dumps(re.sub(r"(\$\{[^{}]*\})", r"$\1", text), ensure_ascii=True)
    pairs = re.compile(r"\\u(d[89ab]..)\\u(d[c-f]..)")
    return pairs.sub(lambda match: f"\\U{_joined(match[1], match[2]):08x}", escaped)


def _joined(high: str, low: str) -> int:
    """Return the code point that JSON writes as two surrogates, and YAML as one escape."""
    return 0x10000 + ((int(high, 16) - 0xD800) << 10) + int(low, 16) - 0xDC00


def _commented(section: Section, depth: int, off: bool = False) -> Iterator[str]:
    indent = "  " * depth
    described = descriptions(section.cls)
    for child in section.children:
        name = key_of(child)
        if name in described:
            yield from (f"{indent}# {line}" for line in described[name].splitlines())
        if isinstance(child, Section):
            below_off = off or child.optional
            if not described.get(name):
                yield f"{indent}# {first_sentence(child.cls)}"
            yield f"{indent}{'#' if below_off else ''}{name}:"
            yield from _commented(child, depth + 1, below_off)
        else:
            yield f"{indent}#{name}: {scalar(child.default)}"


def _shown(section: Section, value: Any, effective: Effective, depth: int) -> Iterator[tuple[str, str]]:
    for child in section.children:
        name = key_of(child)
        found = getattr(value, name)
        if isinstance(child, Section) and found is not None:
            yield f"{'  ' * depth}{name}:", ""
            yield from _shown(child, found, effective, depth + 1)
        else:
            text = MASK if isinstance(child, Leaf) and child.secret and found else found
            origin = effective.origins.get(child.path, "default")
            yield f"{'  ' * depth}{name}: {scalar(text)}", origin


def first_sentence(cls: type) -> str:
    """Return the first line of a class's docstring."""
    return (inspect.getdoc(cls) or cls.__name__).splitlines()[0]


@cache
def descriptions(cls: type) -> dict[str, str]:
    """Return the docstring under each field of a dataclass, by the field's name."""
    tree = ast.parse(inspect.getsource(inspect.getmodule(cls) or cls))
    classes = (node for node in tree.body if isinstance(node, ast.ClassDef))
    body = next(node.body for node in classes if node.name == cls.__name__)
    found: dict[str, str] = {}
    for base in filter(is_dataclass, cls.__bases__):
        found.update(descriptions(base))
    name = ""
    for item in body:
        if isinstance(item, ast.Expr) and name:
            found[name] = inspect.cleandoc(str(ast.literal_eval(item.value)))
        target = item.target if isinstance(item, ast.AnnAssign) else None
        name = target.id if isinstance(target, ast.Name) else ""
    return found
