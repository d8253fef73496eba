"""Topic names, topic filters and topic templates (MQTT 5, section 4.7). Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping

from mqttkit.errors import TopicError

MAX_TOPIC_BYTES = 65_535
"""A UTF-8 string's length is two bytes on the wire (MQTT 5, 1.5.4)."""

MAX_SCANNER_ID = 64
"""Characters of a scanner identifier."""

_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
_FORBIDDEN = re.compile("[\u0000\ud800-\udfff]")
_DISCOURAGED = re.compile(
    "[\u0001-\u001f\u007f-\u009f\ufdd0-\ufdef"
    + "".join(f"{chr(plane << 16 | 0xFFFE)}{chr(plane << 16 | 0xFFFF)}" for plane in range(17))
    + "]"
)


def check_topic_name(name: str) -> str:
    """Return `name` if a message can be published to it; raise TopicError if not (MQTT 5, 4.7)."""
    _check_common(name, "topic name")
    if "+" in name or "#" in name:
        raise TopicError(f"topic name {name!r} has a wildcard, + or #: a message goes to one topic")
    return name


def check_topic_filter(topic_filter: str) -> str:
    """Return `topic_filter` if it can be subscribed to; raise TopicError if not (MQTT 5, 4.7.1, 4.8.2)."""
    _check_common(topic_filter, "topic filter")
    levels = split_share(topic_filter)[1].split("/")
    for index, level in enumerate(levels):
        if "#" in level and (level != "#" or index != len(levels) - 1):
            raise TopicError(f"topic filter {topic_filter!r}: # must be the whole last level")
        if "+" in level and level != "+":
            raise TopicError(f"topic filter {topic_filter!r}: + must be a whole level")
    return topic_filter


def split_share(topic_filter: str) -> tuple[str | None, str]:
    """Split `$share/group/filter` into (group, filter); no group: None (MQTT 5, 4.8.2)."""
    if not topic_filter.startswith("$share/"):
        return None, topic_filter
    group, separator, inner = topic_filter[len("$share/") :].partition("/")
    if not group or not separator or not inner or "+" in group or "#" in group:
        raise TopicError(f"topic filter {topic_filter!r} is not $share/group/filter")
    return group, inner


def matches(topic_filter: str, name: str) -> bool:
    """Return whether a message on `name` reaches a subscription to `topic_filter` (MQTT 5, 4.7)."""
    wanted = split_share(topic_filter)[1].split("/")
    levels = name.split("/")
    if name.startswith("$") and wanted[0] in ("+", "#"):
        return False
    for index, level in enumerate(wanted):
        if level == "#":
            return True
        if index >= len(levels) or level not in ("+", levels[index]):
            return False
    return len(wanted) == len(levels)


def discouraged_character(text: str) -> str:
    """Name the first character of `text` that may make a broker close the connection, or return an empty string.

    These are control characters and non-characters. The specification says SHOULD NOT (MQTT 5, 1.5.4): some brokers
    accept them, mosquitto closes the connection.
    """
    if text.isprintable():
        return ""
    found = _DISCOURAGED.search(text)
    if found is None:
        return ""
    code = ord(found[0])
    return f"U+{code:04X}, a {'control character' if code < 0xFDD0 else 'non-character'}"


def check_template(template: str, allowed: tuple[str, ...]) -> str:
    """Return `template` if it has only `allowed` placeholders and the rest is a topic name; raise TopicError if not."""
    for found in _PLACEHOLDER.findall(template):
        if found not in allowed:
            names = ", ".join("{" + name + "}" for name in allowed)
            raise TopicError(f"topic template {template!r}: unknown placeholder {{{found}}}, use one of {names}")
    bare = _PLACEHOLDER.sub("x", template)
    if "{" in bare or "}" in bare:
        raise TopicError(f"topic template {template!r} has an unbalanced brace")
    check_topic_name(bare)
    return template


def fill_template(template: str, values: Mapping[str, str]) -> str:
    """Fill {placeholders}; each value must be one non-empty level of a topic name."""
    for name in _PLACEHOLDER.findall(template):
        check_level(values[name], name)
    return template.format_map(values)


def check_level(value: str, what: str) -> str:
    """Return `value` if it can be one level of a topic name; `what` names it in the error."""
    if not value:
        raise TopicError(f"{what} is empty")
    found = next((character for character in value if character in "/+#\0"), None)
    if found is not None:
        raise TopicError(f"{what} {value!r} has {found!r}, which a topic level must not contain")
    if _FORBIDDEN.search(value):
        raise TopicError(f"{what} {value!r} has a character that MQTT forbids")
    return value


def check_scanner_id(scanner_id: str) -> str:
    """Return `scanner_id` if it can be one level of a topic name, of at most 64 characters; raise TopicError."""
    if len(scanner_id) > MAX_SCANNER_ID:
        raise TopicError(f"scanner identifier has {len(scanner_id)} characters, at most {MAX_SCANNER_ID} are allowed")
    if found := discouraged_character(scanner_id):
        raise TopicError(f"scanner identifier {scanner_id!r} has {found}, and brokers close the connection for it")
    return check_level(scanner_id, "scanner identifier")


def _check_common(text: str, what: str) -> None:
    if not text:
        raise TopicError(f"{what} is empty")
    if _FORBIDDEN.search(text):
        raise TopicError(f"{what} {text!r} has NUL or a lone surrogate, which MQTT forbids")
    if len(text.encode()) > MAX_TOPIC_BYTES:
        raise TopicError(f"{what} is longer than {MAX_TOPIC_BYTES} bytes of UTF-8")
