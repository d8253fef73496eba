"""mosquitto's -D TYPE PROPERTY VALUE: the option of mqttkit for each property, and what those options set."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import click

from mqttkit.cli.options.numbers import LONG_SECONDS, Number
from mqttkit.cli.options.setting_option import setting_option
from mqttkit.cli.options.texts import Bytes, Text
from mqttkit.errors import UsageError
from mqttkit.messages import Properties

OPTION = "--property"
"""The hidden option for properties that are settings: KEY VALUE, the key of `mqtt.properties`."""
WILL_OPTION = "--will-property"
"""The hidden option for properties of the will: NAME VALUE."""
USER, INDICATOR = "user-property", "payload-format-indicator"

_WORDS: dict[tuple[str, str], tuple[str, ...]] = {
    ("publish", "content-type"): ("--content-type",),
    ("publish", "correlation-data"): ("--correlation-data",),
    ("publish", "message-expiry-interval"): ("--expiry",),
    ("publish", INDICATOR): ("--utf8",),
    ("publish", "response-topic"): ("--response-topic",),
    ("publish", "topic-alias"): ("--topic-alias",),
    ("publish", USER): ("--user-property",),
    ("connect", "authentication-data"): (OPTION, "authentication_data"),
    ("connect", "authentication-method"): (OPTION, "authentication_method"),
    ("connect", "maximum-packet-size"): ("--max-packet-size",),
    ("connect", "receive-maximum"): ("--receive-maximum",),
    ("connect", "request-problem-information"): (OPTION, "request_problem_information"),
    ("connect", "request-response-information"): (OPTION, "request_response_information"),
    ("connect", "session-expiry-interval"): ("--session-expiry",),
    ("connect", "topic-alias-maximum"): (),
    ("connect", USER): (OPTION, "connect"),
    **{
        ("will", name): (WILL_OPTION, name)
        for name in ("content-type", "correlation-data", "message-expiry-interval", INDICATOR, "response-topic", USER)
    },
    ("will", "will-delay-interval"): ("--will-delay",),
    ("subscribe", "subscription-identifier"): (OPTION, "subscription_identifier"),
    ("subscribe", USER): (OPTION, "subscribe"),
    ("unsubscribe", USER): (OPTION, "unsubscribe"),
    ("disconnect", "session-expiry-interval"): (OPTION, "disconnect_expiry"),
    ("disconnect", USER): (OPTION, "disconnect"),
}
"""By type and property: the words that replace them, in front of the value."""
TYPES = tuple(dict.fromkeys(kind for kind, _ in _WORDS))
_LISTS = ("connect", "subscribe", "unsubscribe", "disconnect")
"""The keys of `mqtt.properties` that hold user properties."""


def property_words(kind: str, name: str, values: list[str]) -> list[str]:
    """Return the words of mqttkit's option for a property; raise UsageError if there is none."""
    words = _WORDS.get((kind, name))
    if words is None:
        known = ", ".join(" ".join(pair) for pair in _WORDS)
        raise UsageError(f"-D {kind} {name}: mqttkit does not send this property", hint=f"It sends: {known}")
    missing = (2 if name == USER else 1) - len(values)
    if missing:
        raise UsageError(f"-D {kind} {name} needs {'a name and a value' if name == USER else 'a value'}")
    if words == ("--utf8",):
        return [] if _flag(f"-D {kind} {name}", values[0]) == "0" else [*words]
    if not words:
        return _no_aliases(values[0])
    if name == USER and words[0] != "--user-property":
        return [*words, _pair(*values)]
    return [*words, *values]


def _no_aliases(value: str) -> list[str]:
    if value != "0":
        raise UsageError("-D connect topic-alias-maximum: mqttkit reads no topic aliases, so it allows 0 only")
    return []


def _flag(option: str, value: str) -> str:
    if value not in ("0", "1"):
        raise UsageError(f"{option} must be 0 or 1, got {value!r}")
    return value


def _pair(name: str, value: str) -> str:
    if "=" in name:
        raise UsageError(f"the name of a user property must not contain '=' here, got {name!r}")
    return f"{name}={value}"


def _settings(pairs: list[tuple[str, str]]) -> dict[str, object]:
    """Return the settings of --property, by dotted path."""
    found: dict[str, Any] = {}
    for key, value in pairs:
        path = f"mqtt.properties.{key}"
        if key in _LISTS:
            found.setdefault(path, []).append(value)
        else:
            found[path] = value
    return found


def will_properties(pairs: Iterable[tuple[str, str]]) -> Properties | None:
    """Return the properties of --will-property; None if it was not given."""
    fields: dict[str, Any] = {}
    users: list[tuple[str, str]] = []
    for name, value in pairs:
        where = f"-D will {name}"
        if name == USER:
            key, _, text = value.partition("=")
            users.append((_converted(where, Text("NAME"), key), _converted(where, Text("VALUE"), text)))
        elif name == INDICATOR:
            fields["payload_format_indicator"] = int(_flag(where, value))
        elif name == "message-expiry-interval":
            fields["message_expiry_interval"] = _converted(where, LONG_SECONDS, value)
        else:
            kind = Bytes("TEXT") if name == "correlation-data" else Text("TEXT")
            fields[name.replace("-", "_")] = _converted(where, kind, value)
    return Properties(**fields, user_properties=tuple(users)) if fields or users else None


def _converted(where: str, kind: Any, value: str) -> Any:
    try:
        return kind.convert(value, None, None)
    except click.UsageError as error:
        raise UsageError(f"{where}: {error.message.rstrip('.')}") from error


topic_alias_option = click.option(
    "--topic-alias",
    type=Number("N", low=1, high=65_535, whole=True),
    help="MQTT 5: topic alias, if the broker takes it.",
)
property_option = setting_option(OPTION, expand=_settings, nargs=2, multiple=True, hidden=True)
will_property_option = click.option(WILL_OPTION, "will_property", nargs=2, multiple=True, hidden=True)
