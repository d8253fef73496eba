"""What a setting's value must be beyond its type. Pure.

A rule is part of a field's type, `port: Annotated[int, between(1, 65_535)] = 1883`. `check_fields` applies the rules
of a settings class, so that a value is checked once, no matter if Python, a file, a variable or a flag gave it.
"""

from __future__ import annotations

import math
import re
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import cache
from typing import Annotated, Any

from mqttkit.addresses import parse_address, parse_proxy
from mqttkit.errors import ConfigError, TopicError
from mqttkit.topics import check_level, check_scanner_id, check_template, check_topic_filter, check_topic_name

_HEX = frozenset("0123456789abcdefABCDEF")
_SOURCES = ("auto", "bleak", "bluepy", "simulated")


@dataclass(frozen=True)
class ValueRule:
    """A test and what it asks for."""

    expected: str
    """Completes the sentence `must be ...`."""
    holds: Callable[[Any], bool]
    """Return whether a value passes; a ValueError or TopicError says why it does not."""
    null_word: str = ""
    """A word that a file or a flag may give instead of null."""

    def problem(self, value: Any) -> str:
        """Return what is wrong with the value, or an empty string."""
        try:
            return "" if self.holds(value) else f"must be {self.expected}"
        except (ValueError, TopicError) as error:
            return str(error)


def between(low: int, high: int) -> ValueRule:
    """Ask for a number from low to high."""
    return ValueRule(f"{low} to {high}", lambda value: low <= value <= high)


def at_least(low: int) -> ValueRule:
    """Ask for a number of low or more."""
    return ValueRule(f"{low} or more", lambda value: value >= low)


def above(low: int, *, null_word: str = "") -> ValueRule:
    """Ask for a number greater than low."""
    return ValueRule(f"more than {low}", lambda value: value > low, null_word)


_PERIOD = re.compile(r"([0-9]+)([smhdw])")
_UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}


def period_seconds(text: str) -> float:
    """Return the seconds of a period such as 12h, 30d or 4w; raise ValueError."""
    found = _PERIOD.fullmatch(text)
    if found is None or int(found[1]) == 0:
        raise ValueError(f"must be a period such as 12h, 30d or 4w, got {text!r}")
    return int(found[1]) * _UNITS[found[2]]


PERIOD = ValueRule("a period such as 12h, 30d or 4w", lambda value: period_seconds(value) > 0)
TABLE_NAME = ValueRule(
    "a table's name, with its schema or without: letters, digits and _",
    lambda value: re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,40}(\.[A-Za-z_][A-Za-z0-9_]{0,40})?", value) is not None,
)


_FIELDS = ("tenant_id", "agent_id", "metric_name", "value", "timestamp_ms", "dedupe_id", "tags", "received_ms")
_MAY_BE_LEFT_OUT = ("tags", "received_ms")


def _names_columns(text: str) -> bool:
    pairs = [part.partition("=") for part in text.split(",")]
    left_out = [name for name, _, column in pairs if column == "-"]
    names = {name: name for name in _FIELDS} | {name: column for name, _, column in pairs if column != "-"}
    stored = [column for name, column in names.items() if name not in left_out]
    return (
        names.keys() == set(_FIELDS)
        and set(left_out) <= set(_MAY_BE_LEFT_OUT)
        and len({name for name, _, _ in pairs}) == len(pairs)
        and len(set(stored)) == len(stored)
        and all(re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,62}", column) for column in stored)
    )


METRIC_COLUMNS = ValueRule(
    f"FIELD=COLUMN,… with fields of {', '.join(_FIELDS)}; - leaves out {' or '.join(_MAY_BE_LEFT_OUT)}", _names_columns
)


_UUID = re.compile(r"[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")


def is_uuid(text: str) -> bool:
    """Return whether the text is a UUID with hyphens."""
    return _UUID.fullmatch(text) is not None


def _names_tenants(pairs: tuple[str, ...]) -> bool:
    split = [pair.rpartition("=") for pair in pairs]
    groups = [group for group, _, _ in split]
    return all(group and is_uuid(tenant) for group, _, tenant in split) and len(set(groups)) == len(groups)


SPARKPLUG_GROUPS = ValueRule("a list of GROUP=TENANT, each group once and each tenant a UUID", _names_tenants)


def one_of(*choices: str) -> ValueRule:
    """Ask for one of the words."""
    return ValueRule(f"{', '.join(choices[:-1])} or {choices[-1]}", lambda value: value in choices)


def some_of(*choices: str) -> ValueRule:
    """Ask for a list of at least one of the words."""
    expected = f"some of {', '.join(choices[:-1])} and {choices[-1]}"
    return ValueRule(expected, lambda values: bool(values) and set(values) <= set(choices))


def starts_with(expected: str, *prefixes: str) -> ValueRule:
    """Ask for text that begins with one of the prefixes."""
    return ValueRule(expected, lambda value: value.startswith(prefixes))


def template(*placeholders: str) -> ValueRule:
    """Ask for a topic template with these placeholders."""
    return ValueRule("a topic template", lambda value: bool(check_template(value, placeholders)))


def topic_level(what: str) -> ValueRule:
    """Ask for one level of a topic name; `what` names it in the error."""
    return ValueRule(f"one topic level ({what})", lambda value: bool(check_level(value, what)))


def _is_company(text: str) -> bool:
    if len(text) != 4 or not _HEX.issuperset(text):
        raise ValueError(f"must be two hex bytes such as 4c00, got {text!r}")
    return True


def _is_source(value: str) -> bool:
    kind, _, argument = value.partition(":")
    if kind == "replay":
        return bool(argument)
    if value in _SOURCES:
        return True
    from difflib import get_close_matches  # 0.3 MB, needed only after a typing error

    near = get_close_matches(kind, (*_SOURCES, "replay"), 1)
    if not near:
        return False
    meant = f"replay:{argument or 'FILE'}" if near == ["replay"] else near[0]
    raise ValueError(f"must be {SOURCE.expected}, got {value!r}. Did you mean {meant}?")


def _is_listen_address(value: str) -> bool:
    host, _, port = value.rpartition(":")
    return bool(host) and port.isascii() and port.isdigit() and int(port) <= 65_535


HOST = ValueRule("a host name or an address", lambda value: bool(value.strip()))
HOSTS = ValueRule("a list of host or host:port", lambda value: all(parse_address(one, 1) for one in value))
LISTEN_ADDRESS = ValueRule("host:port", _is_listen_address)
WITHOUT_NUL = ValueRule("text without NUL", lambda value: "\0" not in value)
PROXY = ValueRule("socks5h://[user[:password]@]host[:port]", lambda value: bool(parse_proxy(value)))
HEX = ValueRule("bytes in hexadecimal", lambda value: re.fullmatch("([0-9a-fA-F]{2})+", value) is not None)
PAIRS = ValueRule("a list of name=value", lambda value: all("=" in one and "\0" not in one for one in value))
TOPIC_FILTER = ValueRule("a topic filter", lambda value: bool(check_topic_filter(value)))
TOPIC_NAME = ValueRule("a topic name", lambda value: bool(check_topic_name(value)))
SCANNER_ID = ValueRule("a scanner identifier", lambda value: bool(check_scanner_id(value)))
SOURCE = ValueRule("auto, bleak, bluepy, simulated or replay:FILE", _is_source)
COMPANIES = ValueRule("a list of two hex bytes such as 4c00", lambda value: all(_is_company(one) for one in value))


@dataclass(frozen=True)
class FieldRule:
    """What one field of a settings class takes."""

    kind: Any
    """Type of the value, without None."""
    optional: bool
    """True if None is a value."""
    rule: ValueRule | None

    def problem(self, value: Any) -> str:
        """Return what is wrong with the value, or an empty string."""
        if value is None and self.optional:
            return ""
        if not _fits(self.kind, value):
            return f"must be {self.rule.expected if self.rule else describe_type(self.kind)}"
        return self.rule.problem(value) if self.rule else ""


def check_fields(settings: Any) -> None:
    """Check each field of a settings object; raise ConfigError, which names the field, for the first bad one."""
    cls: Any = type(settings)
    found = field_rules(cls)
    for item in fields(settings):
        value = getattr(settings, item.name)
        problem = found[item.name].problem(value)
        if problem:
            got = repr(value) if item.repr and lacks_value(problem) else ""
            raise ConfigError(problem, where=f"{cls.__name__}.{item.name}", field=item.name, got=got)


def lacks_value(problem: str) -> bool:
    """Return whether the sentence should be followed by the value that was given."""
    return problem.startswith("must be") and ", got " not in problem


@cache
def field_rules(cls: Any) -> dict[str, FieldRule]:
    """Return the type and the rule of each field of a dataclass, by the field's name."""
    hints = typing.get_type_hints(cls, include_extras=True)
    return {item.name: _field_rule(hints[item.name]) for item in fields(cls)}


def split_optional(hint: Any) -> tuple[Any, bool]:
    """Split `X | None` into (X, True); anything else is (hint, False)."""
    if typing.get_origin(hint) not in (typing.Union, types.UnionType):
        return hint, False
    rest = [part for part in typing.get_args(hint) if part is not type(None)]
    if len(rest) != 1 or len(rest) == len(typing.get_args(hint)):
        raise TypeError(f"settings support no union except X | None, not {hint}")
    return rest[0], True


def describe_type(kind: Any) -> str:
    """Say what a value of the type looks like."""
    words = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
    if kind in words:
        return words[kind]
    if typing.get_origin(kind) is tuple:
        return "a list"
    if typing.get_origin(kind) is typing.Literal:
        return " or ".join(str(choice) for choice in typing.get_args(kind))
    return "a section"


def _field_rule(hint: Any) -> FieldRule:
    rule = None
    if typing.get_origin(hint) is typing.Annotated:
        hint, *extras = typing.get_args(hint)
        rule = next((extra for extra in extras if isinstance(extra, ValueRule)), None)
    kind, optional = split_optional(hint)
    return FieldRule(kind, optional, rule)


def _fits(kind: Any, value: Any) -> bool:
    """Return whether the value has the type, as far as settings need: bool is not a number, an int is a float."""
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    origin = typing.get_origin(kind)
    if origin is tuple:
        return isinstance(value, tuple) and all(_fits(typing.get_args(kind)[0], item) for item in value)
    if origin is typing.Literal:
        return value in typing.get_args(kind)
    return isinstance(value, origin or kind)


QoS = Annotated[int, between(0, 2)]
Port = Annotated[int, between(1, 65_535)]
Count = Annotated[int, at_least(1)]
Seconds = Annotated[float, above(0)]
Duration = Annotated[float, at_least(0)]


class Checked:
    """Base of all settings: checks each field by its type and its rule."""

    def __post_init__(self) -> None:
        check_fields(self)
