"""The message envelope: parse and write its JSON. Pure; the schema is docs/reference/envelope.schema.json."""

from __future__ import annotations

import json
import math
import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any, NoReturn

import msgspec

from mqttkit.controller.messages.refusals import MessageRefusal, MessageRefused

SCHEMA_VERSION = 1
MAX_DEPTH = 32
"""Levels of objects and arrays in an envelope, the envelope included."""
MAX_NAME = 128
"""Characters of message_type, sender_id and region."""
_UUID7 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
_TIMESTAMP = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{3}Z", re.ASCII)
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
"""The escape of half a surrogate pair in JSON."""
_HALF_CHARACTER = "a text holds half a surrogate pair, which has no UTF-8 form"
_MAX_SEQUENCE = 2**53 - 1
_MIN_INTEGER, _MAX_INTEGER = -(2**63), 2**64 - 1
_FIELDS = (
    *("message_id", "message_type", "sender_id", "region"),
    *("timestamp", "sequence", "schema_version", "payload"),
)


@dataclass(frozen=True, kw_only=True)
class Envelope:
    """One message between controllers."""

    message_id: str
    """UUIDv7 in its canonical lower-case form (RFC 9562, 5.7)."""
    message_type: str
    """Type of the message, such as discovery.report."""
    sender_id: str
    """Identifier of the controller that wrote it."""
    region: str
    """Region that it concerns; `global` for all."""
    timestamp: int
    """When it was written: milliseconds since 1970-01-01 UTC."""
    sequence: int
    """Counts a sender's messages from 1; a gap means that a message is missing."""
    payload: Mapping[str, Any] = field(default_factory=dict)
    """The content; a JSON object."""
    schema_version: int = SCHEMA_VERSION
    """Version of the envelope."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the JSON object that this version does not know; kept unchanged."""

    def to_bytes(self) -> bytes:
        """Return it as compact UTF-8 JSON.

        Raises ValueError or TypeError if JSON cannot express the payload, and MessageRefused if receivers would refuse
        its nesting or its numbers.
        """
        _check_values(dict(self.payload), MAX_DEPTH - 1)
        try:
            return msgspec.json.encode(self.to_document())
        except UnicodeEncodeError as error:
            raise _malformed(_HALF_CHARACTER) from error

    def to_document(self) -> dict[str, Any]:
        """Return it as a JSON object."""
        fields = {name: getattr(self, name) for name in _FIELDS}
        fields["timestamp"] = format_timestamp(self.timestamp)
        return {**fields, **self.extra}


def parse(data: bytes) -> Envelope:
    """Return the envelope in `data`; raise MessageRefused (malformed, unknown_version)."""
    try:
        document = json.loads(
            data.decode(),
            object_pairs_hook=_reject_duplicate_keys,
            parse_constant=_reject_constant,
        )
    except (ValueError, RecursionError) as error:
        raise _malformed(f"not JSON: {error}") from error
    if not isinstance(document, dict):
        raise _malformed("not a JSON object")
    _check_values(document, MAX_DEPTH)
    if _SURROGATE.search(data):
        _check_text(document)
    _check_version(document.get("schema_version"))
    missing = [name for name in _FIELDS if name not in document]
    if missing:
        raise _malformed(f"{missing[0]} is missing")
    _check_names(document)
    sequence, payload = document["sequence"], document["payload"]
    if type(sequence) is not int or not 0 <= sequence <= _MAX_SEQUENCE:
        raise _malformed("sequence must be a whole number from 0 to 2^53-1")
    if not isinstance(payload, dict):
        raise _malformed("payload must be a JSON object")
    fields = {name: document.pop(name) for name in _FIELDS}
    fields["timestamp"] = parse_timestamp(fields["timestamp"])
    return Envelope(**fields, extra=document)


def new_message_id(now_ms: int | None = None) -> str:
    """Return a new UUIDv7: 48 bits of milliseconds, 74 random bits (RFC 9562, 5.7)."""
    milliseconds = time.time_ns() // 1_000_000 if now_ms is None else now_ms
    noise = int.from_bytes(os.urandom(10), "big")
    value = (milliseconds & (2**48 - 1)) << 80 | 0x7 << 76 | (noise >> 68 & 0xFFF) << 64
    value |= 0b10 << 62 | noise & (2**62 - 1)
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def format_timestamp(milliseconds: int) -> str:
    """Return 2026-01-11T10:30:45.123Z."""
    seconds, rest = divmod(milliseconds, 1000)
    moment = datetime.fromtimestamp(seconds, timezone.utc)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{rest:03d}Z".rjust(24, "0")


def parse_timestamp(text: object) -> int:
    """Return milliseconds since the epoch; raise MessageRefused."""
    if not isinstance(text, str) or not _TIMESTAMP.fullmatch(text):
        raise _malformed("timestamp must look like 2026-01-11T10:30:45.123Z")
    try:
        moment = datetime.fromisoformat(text[:19] + "+00:00")
    except ValueError as error:
        raise _malformed(f"timestamp: {error}") from error
    return math.floor(moment.timestamp()) * 1000 + int(text[20:23])


def _check_version(version: object) -> None:
    if version is None:
        raise _malformed("schema_version is missing")
    if type(version) is not int or version != SCHEMA_VERSION:
        shown = str(version)[:20]
        text = f"schema_version {shown} is unknown; this program understands {SCHEMA_VERSION}"
        raise MessageRefused(MessageRefusal.UNKNOWN_VERSION, text)


def _check_names(document: Mapping[str, Any]) -> None:
    for name in ("message_type", "sender_id", "region"):
        value = document[name]
        if not isinstance(value, str) or not 1 <= len(value) <= MAX_NAME or not _is_text(value):
            raise _malformed(f"{name} must be text of 1 to {MAX_NAME} printable characters")
    message_id = document["message_id"]
    if not isinstance(message_id, str) or not _UUID7.fullmatch(message_id):
        raise _malformed("message_id must be a UUIDv7")


def _is_text(value: str) -> bool:
    return value.isprintable()


def _reject_duplicate_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key appears twice")
    return found


def _check_values(container: dict[str, Any] | list[Any], levels: int) -> None:
    """Raise MessageRefused for more than `levels` levels of nesting, and for numbers beyond 64 bits."""
    if levels == 0:
        raise _malformed(f"more than {MAX_DEPTH} levels of nesting")
    for value in container.values() if isinstance(container, dict) else container:
        kind = type(value)
        if kind is str:  # most values are text
            continue
        if kind is int:
            if not _MIN_INTEGER <= value <= _MAX_INTEGER:
                raise _malformed("a whole number needs more than 64 bits")
        elif kind is float:
            if not math.isfinite(value):
                raise _malformed("a number is not finite")
        elif kind is dict or kind is list or kind is tuple:
            _check_values(value, levels - 1)
        elif value is not None and not isinstance(value, bool | int | float | str):
            raise TypeError(f"{kind.__name__} has no JSON form")


def _check_text(document: dict[str, Any]) -> None:
    """Raise MessageRefused if a text has no UTF-8 form: no file, database or terminal could take it."""
    try:
        json.dumps(document, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise _malformed(_HALF_CHARACTER) from error


def _reject_constant(name: str) -> NoReturn:
    raise ValueError(f"JSON has no number {name}")


def _malformed(cause: str) -> MessageRefused:
    return MessageRefused(MessageRefusal.MALFORMED, cause)
