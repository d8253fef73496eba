"""Format strings like those of mosquitto_sub -F (man mosquitto_sub, "Output format"). Pure.

    %t %p %q %r %l %m %x %X          topic, payload, QoS, retain, length, packet identifier, payload in hex
    %A %C %D %E %F %P %R %S          MQTT 5: topic alias, content type, correlation data, expiry, format
                                     indicator, user properties, response topic, subscription identifiers
    %.2x                             a blank after every two hexadecimal digits
    %d %f                            the payload as a double or a float: 8 or 4 bytes, little-endian
    %I %U @c @N                      time of arrival: ISO 8601, Unix seconds, strftime's %c, nanoseconds
    %j %J                            a JSON object; the payload as a string, or as JSON
    %% @@ \\\\ \\0 \\a \\e \\n \\r \\t \\v     %, @, \\\\, and control characters

A field may have flags and widths as printf has them: %-20t, %05l, %.10t.
"""

from __future__ import annotations

import base64
import contextlib
import json
import re
import struct
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from mqttkit.errors import UsageError
from mqttkit.formats import Formatter
from mqttkit.formats.clock import SECOND, local
from mqttkit.messages import Message, Properties

Replacement = Callable[[Message, int], bytes]
"""(message, nanoseconds since the epoch) -> the bytes that replace the sequence."""


class NotJson(UsageError):
    """%J found a payload that is not JSON."""

    def __init__(self, topic: str) -> None:
        super().__init__(f"message on topic {topic!r}: payload is not valid JSON, which %J requires")


class _Field(NamedTuple):
    value: Replacement
    pads_zero: bool = False
    """The 0 flag has an effect."""
    has_width: bool = True
    cuts: bool = False
    """A maximum width has an effect."""
    parts: bool = False
    """A precision puts blanks, or colons, between groups of digits."""


NONE = Properties()
_ESCAPES = {"\\": b"\\", "0": b"\0", "a": b"\a", "e": b"\x1b", "n": b"\n", "r": b"\r", "t": b"\t", "v": b"\v"}
_SEQUENCE = re.compile(r"%(-?)(0?)(\d*)(?:\.(\d*)(:?))?(.?)|@(.?)|\\(.?)|([^%@\\]+)", re.DOTALL)
MAX_WIDTH = 10_000


def template_formatter(template: str, end: bytes = b"\n", *, pretty: bool = False) -> Formatter:
    """Return a formatter for the format string; raise UsageError for an unknown sequence.

    The formatter raises NotJson if %J finds a payload that is not JSON. `pretty` indents %j and %J.
    """
    values = [_value(match, pretty) for match in _SEQUENCE.finditer(template)]

    def write(messages: Sequence[Message], when: int) -> bytes:
        parts: list[bytes] = []
        for message in messages:
            parts += [value(message, when) for value in values]
            parts.append(end)
        return b"".join(parts)

    return write


def json_value(message: Message, when: int) -> dict[str, Any]:
    """Return the object that %j prints, with mosquitto_sub's names; the payload is last."""
    found: dict[str, Any] = {
        "tst": local(when),
        **_text_or_base64("topic", message.topic_bytes),
        "qos": message.qos,
        "retain": int(message.retain),
        "payloadlen": len(message.payload),
    }
    if message.qos:
        found["mid"] = message.mid
    properties = _json_properties(message.properties or NONE)
    if properties:
        found["properties"] = properties
    return found | _text_or_base64("payload", message.payload)


def _value(match: re.Match[str], pretty: bool) -> Replacement:
    """Return the value of one piece of the format string."""
    align, zero, width, precision, colon, letter, moment, escape, literal = match.groups()
    if literal is not None:
        return _constant(literal.encode("utf-8", "surrogateescape"))
    if escape is not None:
        if escape not in _ESCAPES or not escape:
            raise UsageError(f"-F: unknown escape sequence {match.group()!r}; use one of \\" + " \\".join(_ESCAPES))
        return _constant(_ESCAPES[escape])
    if moment is not None:
        return _moment(moment)
    if letter in "jJ" and letter:
        return _json(letter, pretty)
    if letter in _FLOATS and letter and not colon:
        return _float(_FLOATS[letter], bool(align), bool(zero), width, precision)
    if letter not in _FIELDS or not letter or (colon and not _FIELDS[letter].parts):
        raise UsageError(f"-F: unknown sequence {match.group()!r}; use one of %j %J %d %f %" + " %".join(_FIELDS))
    field = _FIELDS[letter]
    if field.parts and precision and int(precision):
        field = field._replace(value=_parted(field.value, int(precision), b":" if colon else b" "))
    return _padded(field, bool(align), bool(zero), width, precision)


def _padded(field: _Field, left: bool, zero: bool, width: str, precision: str | None) -> Replacement:
    """Pad or cut a field to its widths."""
    limit = int(precision or 0) if precision is not None and field.cuts else None
    least = int(width or 0) if field.has_width else 0
    if max(limit or 0, least) > MAX_WIDTH:
        raise UsageError(f"-F: a width must be at most {MAX_WIDTH}")
    if limit is None and not least:
        return field.value
    pad = b"0" if zero and field.pads_zero and not left else b" "

    def padded(message: Message, when: int) -> bytes:
        value = field.value(message, when)[:limit]
        return value.ljust(least, pad) if left else value.rjust(least, pad)

    return padded


def _parted(digits: Replacement, size: int, separator: bytes) -> Replacement:
    """Put the separator after every `size` digits."""

    def value(message: Message, when: int) -> bytes:
        text = digits(message, when)
        return separator.join(text[start : start + size] for start in range(0, len(text), size))

    return value


def _float(code: str, left: bool, zero: bool, width: str, precision: str | None) -> Replacement:
    """Return the value of %d or %f; a payload of another size gives blanks."""
    least, decimals = int(width or 0), 6 if precision is None else int(precision or 0)
    if max(least, decimals) > MAX_WIDTH:
        raise UsageError(f"-F: a width must be at most {MAX_WIDTH}")
    spec = f"{'<' if left else '0' if zero else ''}{least or ''}.{decimals}f"
    reader = struct.Struct(f"<{code}")

    def value(message: Message, _when: int) -> bytes:
        if len(message.payload) != reader.size:
            return b" " * least
        return format(reader.unpack(message.payload)[0], spec).encode()

    return value


def _constant(value: bytes) -> Replacement:
    return lambda _message, _when: value


def _moment(character: str) -> Replacement:
    """Return the value of @c: strftime's %c, in local time."""
    if not character:
        raise UsageError("-F: @ at the end; @@ is a literal @")
    if character == "@":
        return _constant(b"@")
    if character == "N":
        return lambda _message, when: b"%09d" % (when % SECOND)
    directive = "%" + character
    return lambda _message, when: time.strftime(directive, time.localtime(when // SECOND)).encode()


def _json(letter: str, pretty: bool) -> Replacement:
    """Return the value of %j or %J."""

    def quoted(message: Message, when: int) -> bytes:
        return _dump(json_value(message, when), pretty)

    def embedded(message: Message, when: int) -> bytes:
        inner = _payload_json(message)
        if pretty:
            with contextlib.suppress(ValueError):  # Python cannot hold the number: print it on one line
                return _dump(json_value(message, when) | {"payload": json.loads(inner)}, pretty)
        outer = _dump(json_value(message, when) | {"payload": ""}, pretty=False)
        return outer[: -len(b'""}')] + inner + b"}"

    return embedded if letter == "J" else quoted


def _dump(value: dict[str, Any], pretty: bool) -> bytes:
    indent, separators = ("\t", (",", ":\t")) if pretty else (None, (",", ":"))
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, indent=indent, separators=separators)
    return text.encode("utf-8", "surrogateescape")


def _payload_json(message: Message) -> bytes:
    """Return the payload as one line of JSON, each number unchanged; raise NotJson if it is not JSON.

    An empty payload is null, as in mosquitto_sub.
    """
    if not message.payload:
        return b"null"
    try:
        # numbers stay text: 1e999 and 5,000 digits are JSON
        json.loads(message.payload.decode(), parse_float=str, parse_int=str, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise NotJson(message.topic) from error
    # in valid JSON a line break is between tokens: strings must escape it (RFC 8259, 7)
    return message.payload.translate(_LINE_BREAKS).strip()


_LINE_BREAKS = bytes.maketrans(b"\r\n", b"  ")


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _json_properties(properties: Properties) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if properties.topic_alias is not None:
        found["topic-alias"] = properties.topic_alias
    if properties.subscription_identifiers:
        identifiers = properties.subscription_identifiers
        found["subscription-identifier"] = identifiers[0] if len(identifiers) == 1 else list(identifiers)
    if properties.user_properties:
        found["user-properties"] = _grouped(properties.user_properties)
    for name in ("content_type", "response_topic"):
        if getattr(properties, name) is not None:
            found[name.replace("_", "-")] = getattr(properties, name)
    if properties.correlation_data is not None:
        found |= _text_or_base64("correlation-data", properties.correlation_data)
    for name in ("payload_format_indicator", "message_expiry_interval"):
        if getattr(properties, name) is not None:
            found[name.replace("_", "-")] = getattr(properties, name)
    return found


def _grouped(pairs: tuple[tuple[str, str], ...]) -> dict[str, str | list[str]]:
    """Return {name: value}, or {name: [values]} for a name that is there more than once."""
    values: dict[str, list[str]] = {}
    for name, value in pairs:
        values.setdefault(name, []).append(value)
    return {name: found[0] if len(found) == 1 else found for name, found in values.items()}


def _text_or_base64(name: str, value: bytes) -> dict[str, str]:
    try:
        return {name: value.decode()}
    except UnicodeDecodeError:
        return {f"{name}_base64": base64.b64encode(value).decode()}


def _property(name: str) -> Replacement:
    """Return the value of a property that is a number or text; empty if it is not set."""

    def value(message: Message, _when: int) -> bytes:
        found = getattr(message.properties or NONE, name)
        return b"" if found is None else str(found).encode("utf-8", "surrogateescape")

    return value


def _iso(_message: Message, when: int) -> bytes:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(when // SECOND)).encode()


def _unix(_message: Message, when: int) -> bytes:
    return b"%d.%09d" % divmod(when, SECOND)


def _correlation(message: Message, _when: int) -> bytes:
    return (message.properties or NONE).correlation_data or b""


def _identifiers(message: Message, _when: int) -> bytes:
    return b",".join(b"%d" % number for number in (message.properties or NONE).subscription_identifiers)


def _user_properties(message: Message, _when: int) -> bytes:
    pairs = (message.properties or NONE).user_properties
    return " ".join(f"{name}:{value}" for name, value in pairs).encode("utf-8", "surrogateescape")


_FIELDS = {
    "%": _Field(_constant(b"%"), has_width=False),
    "A": _Field(_property("topic_alias"), pads_zero=True),
    "C": _Field(_property("content_type"), cuts=True),
    "D": _Field(_correlation, has_width=False),
    "E": _Field(_property("message_expiry_interval"), pads_zero=True),
    "F": _Field(_property("payload_format_indicator"), pads_zero=True),
    "I": _Field(_iso, cuts=True),
    "l": _Field(lambda message, _when: b"%d" % len(message.payload), pads_zero=True),
    "m": _Field(lambda message, _when: b"%d" % message.mid, pads_zero=True),
    "P": _Field(_user_properties, has_width=False),
    "p": _Field(lambda message, _when: message.payload),
    "q": _Field(lambda message, _when: b"%d" % message.qos, has_width=False),
    "R": _Field(_property("response_topic"), cuts=True),
    "r": _Field(lambda message, _when: b"%d" % message.retain, has_width=False),
    "S": _Field(_identifiers, pads_zero=True),
    "t": _Field(lambda message, _when: message.topic_bytes, cuts=True),
    "U": _Field(_unix, has_width=False),
    "X": _Field(lambda message, _when: message.payload.hex().upper().encode(), pads_zero=True, parts=True),
    "x": _Field(lambda message, _when: message.payload.hex().encode(), pads_zero=True, parts=True),
}
_FLOATS = {"d": "d", "f": "f"}
"""Sequence to struct's code."""
