"""Messages as JSON, one object per line, lossless in both directions. Pure.

    {"timestamp":"2026-01-11T10:30:45.123456Z","topic":"a/b","qos":1,"retain":false,"payload":"21.5"}

A payload that is not UTF-8 is in `payload_base64` instead of `payload`; `topic` and `correlation_data` work the same
way. A line has `properties` and `dup` only if they are set.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Sequence
from json.encoder import encode_basestring as quote
from typing import Any, NamedTuple

from mqttkit.errors import UsageError
from mqttkit.formats import Formatter
from mqttkit.formats.clock import utc
from mqttkit.messages import Message, Properties

MAX_CACHED_TOPICS = 4096
"""Quoted topic names kept for the next message on the same topic."""

MESSAGE_KEYS = (
    *("timestamp", "topic", "topic_base64", "qos", "retain", "dup"),
    *("payload", "payload_base64", "properties"),
)
PROPERTY_KEYS = (
    *("payload_format_indicator", "message_expiry_interval", "content_type", "response_topic"),
    *("correlation_data", "correlation_data_base64", "user_properties"),
    *("subscription_identifiers", "topic_alias"),
)
_LIMITS = {"payload_format_indicator": 1, "message_expiry_interval": 0xFFFF_FFFF, "topic_alias": 0xFFFF}


class Defaults(NamedTuple):
    """Values for keys that a line does not have."""

    topic: str | None = None
    """Topic name; None: each line must name one."""
    qos: int = 0
    retain: bool = False
    properties: Properties | None = None


NO_DEFAULTS = Defaults()


def json_formatter() -> Formatter:
    """Return a formatter that writes one JSON object per line."""
    topics: dict[str, str] = {}

    def write(messages: Sequence[Message], when: int) -> bytes:
        head = f'{{"timestamp":"{utc(when)}",'
        if len(topics) > MAX_CACHED_TOPICS:
            topics.clear()
        lines = [head + _body(message, topics) for message in messages]
        lines.append("")
        return "\n".join(lines).encode()

    return write


def to_object(message: Message, when: int) -> dict[str, Any]:
    """Return the content of the line for `message`, received at `when` (ns)."""
    loaded: dict[str, Any] = json.loads(json_formatter()([message], when))
    return loaded


def from_line(line: bytes, defaults: Defaults = NO_DEFAULTS) -> Message:
    """Return the message in a line; raise UsageError, which says what is wrong with the line."""
    try:
        fields = json.loads(line.decode())
    except RecursionError as error:
        raise UsageError("nested too deeply for a message") from error
    except ValueError as error:
        raise UsageError(f"not JSON: {error}") from error
    if not isinstance(fields, dict):
        raise UsageError(f"must be a JSON object, got {_kind(fields)}")
    _check_keys(fields, MESSAGE_KEYS, "")
    properties = _properties_from(fields["properties"]) if "properties" in fields else defaults.properties
    return Message(
        topic=_topic_from(fields, defaults),
        payload=_bytes_from(fields, "payload", required=True) or b"",
        qos=_integer(fields, "qos", 2) if "qos" in fields else defaults.qos,
        retain=_boolean(fields, "retain") if "retain" in fields else defaults.retain,
        dup=_boolean(fields, "dup") if "dup" in fields else False,
        properties=properties,
    )


def _body(message: Message, topics: dict[str, str]) -> str:
    topic = topics.get(message.topic)
    if topic is None:
        topic = topics[message.topic] = _bytes_field("topic", message.topic_bytes)
    try:
        payload = f'"payload":{quote(message.payload.decode())}'
    except UnicodeDecodeError:
        payload = _bytes_field("payload", message.payload)
    retain = "true" if message.retain else "false"
    body = f'{topic},"qos":{message.qos},"retain":{retain},{payload}'
    if message.dup:
        body += ',"dup":true'
    if message.properties is not None:
        body += _properties_field(message.properties)
    return body + "}"


def _bytes_field(name: str, value: bytes) -> str:
    """Return `"name":"text"`, or `"name_base64":"..."` if the bytes are not UTF-8."""
    try:
        return f'"{name}":{quote(value.decode())}'
    except UnicodeDecodeError:
        return f'"{name}_base64":"{base64.b64encode(value).decode()}"'


def _properties_field(properties: Properties) -> str:
    found = properties_to_object(properties)
    if not found:
        return ""
    text = json.dumps(found, ensure_ascii=False, separators=(",", ":"))
    if not text.isprintable():  # it may have lone surrogates, which UTF-8 cannot encode
        text = json.dumps(found, separators=(",", ":"))
    return f',"properties":{text}'


def properties_to_object(properties: Properties) -> dict[str, Any]:
    """Return the properties that are set, by name."""
    found: dict[str, Any] = {
        name: getattr(properties, name)
        for name in ("payload_format_indicator", "message_expiry_interval", "content_type", "response_topic")
        if getattr(properties, name) is not None
    }
    if properties.correlation_data is not None:
        found |= json.loads("{" + _bytes_field("correlation_data", properties.correlation_data) + "}")
    if properties.user_properties:
        found["user_properties"] = [list(pair) for pair in properties.user_properties]
    if properties.subscription_identifiers:
        found["subscription_identifiers"] = list(properties.subscription_identifiers)
    if properties.topic_alias is not None:
        found["topic_alias"] = properties.topic_alias
    return found


def _topic_from(fields: dict[str, Any], defaults: Defaults) -> str:
    if "topic" not in fields and "topic_base64" not in fields and defaults.topic is not None:
        return defaults.topic
    topic = _bytes_from(fields, "topic", required=True) or b""
    return topic.decode("utf-8", "surrogateescape")


def _bytes_from(fields: dict[str, Any], name: str, *, required: bool = False) -> bytes | None:
    """Return the bytes under `name` or `name_base64`."""
    encoded = f"{name}_base64"
    if name in fields and encoded in fields:
        raise UsageError(f"give {name} or {encoded}, not both")
    if encoded in fields:
        try:
            return base64.b64decode(_string(fields, encoded), validate=True)
        except (binascii.Error, ValueError) as error:
            raise UsageError(f"{encoded} is not Base64: {error}") from error
    if name in fields:
        return _string(fields, name).encode()
    if required:
        raise UsageError(f"{name} or {encoded} is required")
    return None


def _properties_from(fields: Any) -> Properties:
    if not isinstance(fields, dict):
        raise UsageError(f"properties must be an object, not {_kind(fields)}")
    _check_keys(fields, PROPERTY_KEYS, "properties.")
    numbers = {name: _integer(fields, name, limit) for name, limit in _LIMITS.items() if name in fields}
    return Properties(
        payload_format_indicator=numbers.get("payload_format_indicator"),
        message_expiry_interval=numbers.get("message_expiry_interval"),
        content_type=_string(fields, "content_type") if "content_type" in fields else None,
        response_topic=_string(fields, "response_topic") if "response_topic" in fields else None,
        correlation_data=_bytes_from(fields, "correlation_data"),
        user_properties=_pairs(fields.get("user_properties", [])),
        subscription_identifiers=_identifiers(fields.get("subscription_identifiers", [])),
        topic_alias=numbers.get("topic_alias"),
    )


def _check_keys(fields: dict[str, Any], known: tuple[str, ...], where: str) -> None:
    for name in fields:
        if name not in known:
            raise UsageError(f"unknown key {where}{name}; the keys are {', '.join(known)}")


def _string(fields: dict[str, Any], name: str) -> str:
    value = fields[name]
    if not isinstance(value, str):
        raise UsageError(f"{name} must be a string, not {_kind(value)}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise UsageError(f"{name} has a lone surrogate, which UTF-8 cannot encode") from error
    return value


def _integer(fields: dict[str, Any], name: str, limit: int) -> int:
    value = fields[name]
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= limit:
        raise UsageError(f"{name} must be 0 to {limit}, not {_kind(value)}")
    return value


def _boolean(fields: dict[str, Any], name: str) -> bool:
    value = fields[name]
    if not isinstance(value, bool):
        raise UsageError(f"{name} must be true or false, not {_kind(value)}")
    return value


def _pairs(value: Any) -> tuple[tuple[str, str], ...]:
    if not isinstance(value, list):
        raise UsageError("user_properties must be a list of [name, value]")
    pairs = []
    for pair in value:
        if not isinstance(pair, list) or [type(text) for text in pair] != [str, str]:
            raise UsageError(f"user_properties must be a list of [name, value], not {_kind(pair)}")
        named = dict(zip(("name", "value"), pair, strict=True))
        pairs.append((_string(named, "name"), _string(named, "value")))
    return tuple(pairs)


def _identifiers(value: Any) -> tuple[int, ...]:
    if not isinstance(value, list):
        raise UsageError("subscription_identifiers must be a list of numbers")
    name = "subscription_identifiers"
    return tuple(_integer({name: number}, name, 0xFFF_FFFF) for number in value)


def _kind(value: Any) -> str:
    shown = json.dumps(value)
    return shown if len(shown) <= 40 else shown[:40] + "..."
