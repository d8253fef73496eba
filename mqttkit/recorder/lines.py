"""The lines of a recording: `sub --json`'s, with the times of reception. Pure.

Each line is a JSON object. The first line of a file describes the recording. Then come messages, with `received_ns`
(nanoseconds since 1970 in UTC) and `monotonic_ns` (the recorder's monotonic clock, which no change of the wall clock
moves), and now and then a gap: messages that the recorder dropped, or time without a connection.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, TypeVar

import msgspec

from mqttkit.errors import RecordingError
from mqttkit.formats.jsonlines import json_formatter
from mqttkit.messages import Message, Properties

FORMAT = 1
"""Version of the format, in the header."""


class Recorded(NamedTuple):
    """One message of a recording."""

    message: Message
    received_ns: int
    """Nanoseconds since 1970 in UTC."""
    monotonic_ns: int
    """The recorder's monotonic clock."""


@dataclass(frozen=True)
class Header:
    """What a recording says about itself in its first line."""

    started_ns: int
    """When it started: nanoseconds since 1970 in UTC."""
    monotonic_ns: int
    """The same moment on the recorder's monotonic clock."""
    broker: str
    """Host and port."""
    mqtt_version: int
    """5, or 4 for MQTT 3.1.1."""
    subscriptions: tuple[str, ...]
    """Topic filters."""
    qos: int
    """QoS of the subscriptions."""
    part: int = 1
    """Number of the file in a rotated recording, from 1."""
    format: int = FORMAT


@dataclass(frozen=True)
class Gap:
    """A place where messages are missing."""

    reason: str
    """`dropped` (the recorder was too slow) or `disconnected`."""
    messages: int
    """Messages known to be missing; 0 if that cannot be known."""
    start_ns: int
    """Monotonic clock, as in the messages."""
    end_ns: int


class _Line(msgspec.Struct):
    """A line as JSON has it."""

    topic: str | None = None
    topic_base64: str | None = None
    payload: str | None = None
    payload_base64: str | None = None
    qos: int = 0
    retain: bool = False
    dup: bool = False
    properties: dict[str, Any] | None = None
    received_ns: int = 0
    monotonic_ns: int = 0
    timestamp: str = ""
    mqttkit_recording: dict[str, Any] | None = None
    mqttkit_gap: dict[str, Any] | None = None


class _GapTime(msgspec.Struct):
    end_ns: int


class _LineTime(msgspec.Struct):
    """The times of a line: everything else is skipped, which is ten times as fast."""

    monotonic_ns: int = 0
    mqttkit_gap: _GapTime | None = None


T = TypeVar("T")

_decode = msgspec.json.Decoder(_Line).decode
_decode_time = msgspec.json.Decoder(_LineTime).decode


def line_formatter() -> Callable[[Sequence[Message], int, int], bytes]:
    """Return a function from messages and their times of reception to lines."""
    write = json_formatter()

    def lines(messages: Sequence[Message], received_ns: int, monotonic_ns: int) -> bytes:
        times = f',"received_ns":{received_ns},"monotonic_ns":{monotonic_ns}}}\n'.encode()
        return write(messages, received_ns).replace(b"}\n", times)

    return lines


def header_line(header: Header) -> bytes:
    """Return the first line of a file."""
    return msgspec.json.encode({"mqttkit_recording": asdict(header)}) + b"\n"


def gap_line(gap: Gap) -> bytes:
    """Return the line of a gap."""
    return msgspec.json.encode({"mqttkit_gap": asdict(gap)}) + b"\n"


def line_time(line: bytes) -> int:
    """Return the monotonic time of a message, or of the end of a gap; raise RecordingError as `parse_line` does."""
    try:
        found = _decode_time(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RecordingError(f"not a line of a recording: {error}") from error
    return found.monotonic_ns if found.mqttkit_gap is None else found.mqttkit_gap.end_ns


def parse_line(line: bytes) -> Recorded | Gap | Header:
    """Return what a line says; raise RecordingError if it is not a line of a recording."""
    try:
        fields = _decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RecordingError(f"not a line of a recording: {error}") from error
    if fields.mqttkit_gap is not None:
        return _convert(fields.mqttkit_gap, Gap)
    if fields.mqttkit_recording is not None:
        return _header(fields.mqttkit_recording)
    if not fields.received_ns:
        raise RecordingError("not a line of a recording: it has no received_ns")
    topic = fields.topic if fields.topic is not None else _text(fields.topic_base64)
    payload = fields.payload.encode() if fields.payload is not None else _bytes(fields.payload_base64)
    properties = _properties(fields.properties) if fields.properties else None
    message = Message(topic, payload, fields.qos, fields.retain, fields.dup, 0, properties)
    return Recorded(message, fields.received_ns, fields.monotonic_ns)


def _header(fields: dict[str, Any]) -> Header:
    version = fields.get("format")
    if version != FORMAT:
        raise RecordingError(f"this recording has format {version!r}; this version of mqttkit reads format {FORMAT}")
    return _convert(fields, Header)


def _convert(fields: dict[str, Any], kind: type[T]) -> T:
    try:
        return msgspec.convert(fields, kind)
    except msgspec.ValidationError as error:
        raise RecordingError(f"not a line of a recording: {error}") from error


def _bytes(text: str | None) -> bytes:
    try:
        return base64.b64decode(text or "", validate=True)
    except ValueError as error:
        raise RecordingError(f"not a line of a recording: {error}") from error


def _text(text: str | None) -> str:
    if text is None:
        raise RecordingError("not a line of a recording: it has no topic")
    return _bytes(text).decode("utf-8", "surrogateescape")


def _properties(fields: dict[str, Any]) -> Properties:
    values = dict(fields)
    encoded = values.pop("correlation_data_base64", None)
    data = values.pop("correlation_data", None)
    correlation = _bytes(encoded) if encoded is not None else None if data is None else str(data).encode()
    pairs = tuple((str(name), str(value)) for name, value in values.pop("user_properties", ()))
    identifiers = tuple(values.pop("subscription_identifiers", ()))
    try:
        return Properties(
            correlation_data=correlation, user_properties=pairs, subscription_identifiers=identifiers, **values
        )
    except TypeError as error:
        raise RecordingError(f"not a line of a recording: {error}") from error
