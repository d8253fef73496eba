"""Recordings in other formats: JSON lines, CSV and MCAP, both ways."""

from __future__ import annotations

import csv
import io
import struct
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mqttkit.errors import MissingPart, RecordingError, UsageError
from mqttkit.formats.clock import utc
from mqttkit.formats.jsonlines import from_line, json_formatter
from mqttkit.messages import Message
from mqttkit.recorder.editing import write_recording
from mqttkit.recorder.lines import Header, Recorded
from mqttkit.recorder.recording import Recording

if TYPE_CHECKING:
    from typing import BinaryIO

CSV_COLUMNS = ("received", "received_ns", "topic", "qos", "retain", "payload")
MAX_FIELD = 268_435_455
"""Characters of a CSV field: those of the largest payload."""


def export_recording(recording: Recording, kind: str, output: BinaryIO) -> None:
    """Write the messages as `sub --json` prints them (`ndjson`), as CSV with a header line, or as MCAP.

    MCAP has a channel for each topic, with the QoS of its first message; log and publish time are the time of
    reception. CSV and MCAP have no MQTT properties. Raises MissingPart for MCAP without the package mcap.
    """
    if kind == "mcap":
        _export_mcap(recording, output)
        return
    for lines in _lines(recording, kind):
        output.write(lines)


def import_recording(source: Path, kind: str, target: Path) -> int:
    """Write a recording from such a file; return how many messages it has. Raise RecordingError that names the line."""
    received = {"ndjson": _read_ndjson, "csv": _read_csv, "mcap": _read_mcap}[kind](source)
    first = next(received, None)
    start = 0 if first is None else first[0]
    header = Header(start, start, str(source), 5, ("#",), 2)
    messages = (Recorded(message, when, when) for when, message in _with_first(first, received))
    return write_recording(target, header, (), messages)


def _with_first(
    first: tuple[int, Message] | None, rest: Iterator[tuple[int, Message]]
) -> Iterator[tuple[int, Message]]:
    if first is not None:
        yield first
        yield from rest


def _lines(recording: Recording, kind: str) -> Iterator[bytes]:
    if kind == "ndjson":
        write = json_formatter()
        for recorded in recording.messages():
            yield write([recorded.message], recorded.received_ns)
        return
    yield _csv_line(CSV_COLUMNS)
    for recorded in recording.messages():
        message = recorded.message
        payload = message.payload.decode("utf-8", "backslashreplace")
        times = (utc(recorded.received_ns), recorded.received_ns)
        yield _csv_line((*times, message.topic, message.qos, int(message.retain), payload))


def _csv_line(values: Iterable[object]) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerow(values)
    return text.getvalue().encode("utf-8", "backslashreplace")


def _mcap() -> Any:
    try:
        import mcap.exceptions
        import mcap.reader
        import mcap.writer
    except ImportError as error:
        raise MissingPart("MCAP needs the package mcap", hint="pip install 'mqttkit[mcap]'") from error
    return mcap


def _export_mcap(recording: Recording, output: BinaryIO) -> None:
    writer = _mcap().writer.Writer(output)
    writer.start(profile="", library="mqttkit")
    channels: dict[str, int] = {}
    for recorded in recording.messages():
        message = recorded.message
        topic = message.topic_bytes.decode("utf-8", "backslashreplace")
        if topic not in channels:
            metadata = {"qos": str(message.qos), "retain": str(message.retain).lower()}
            channels[topic] = writer.register_channel(schema_id=0, topic=topic, message_encoding="", metadata=metadata)
        when = recorded.received_ns
        writer.add_message(channel_id=channels[topic], log_time=when, publish_time=when, data=message.payload)
    writer.finish()


def _read_mcap(source: Path) -> Iterator[tuple[int, Message]]:
    module = _mcap()
    try:
        with source.open("rb") as stream:
            for _schema, channel, each in module.reader.make_reader(stream).iter_messages():
                qos = int(channel.metadata.get("qos", "0"))
                retain = channel.metadata.get("retain") == "true"
                yield each.log_time, Message(channel.topic, each.data, qos if qos in (0, 1, 2) else 0, retain)
    except OSError as error:
        raise RecordingError(f"cannot read {source}: {error.strerror}") from error
    except (ValueError, EOFError, struct.error, module.exceptions.McapError) as error:
        raise RecordingError(f"{source} is not an MCAP file: {error}") from error


def _read_ndjson(source: Path) -> Iterator[tuple[int, Message]]:
    import json

    for number, line in enumerate(_open_lines(source), 1):
        try:
            message = from_line(line)
            yield _nanoseconds(json.loads(line).get("timestamp")), message
        except UsageError as error:
            raise RecordingError(f"{source}:{number}: {error.message}") from error


def _read_csv(source: Path) -> Iterator[tuple[int, Message]]:
    csv.field_size_limit(MAX_FIELD)
    try:
        with source.open(encoding="utf-8", newline="") as stream:
            rows = csv.DictReader(stream)
            for number, row in enumerate(rows, 2):
                try:
                    flags = int(row["qos"]), row["retain"] == "1"
                    yield int(row["received_ns"]), Message(row["topic"], row["payload"].encode(), *flags)
                except (KeyError, TypeError, ValueError) as error:
                    raise RecordingError(f"{source}:{number}: not a line of an exported recording: {error}") from error
    except OSError as error:
        raise RecordingError(f"cannot read {source}: {error.strerror}") from error
    except (csv.Error, UnicodeDecodeError) as error:
        raise RecordingError(f"{source} is not CSV in UTF-8: {error}") from error


def _open_lines(source: Path) -> Iterator[bytes]:
    try:
        with source.open("rb") as stream:
            yield from (line for line in stream if line.strip())
    except OSError as error:
        raise RecordingError(f"cannot read {source}: {error.strerror}") from error


def _nanoseconds(text: object) -> int:
    try:
        moment = datetime.fromisoformat(str(text).replace("Z", "+00:00"))
    except ValueError:
        raise UsageError(f"timestamp {text!r} is not a time; `sub --json` writes one") from None
    whole = int(moment.replace(microsecond=0).timestamp())
    return whole * 1_000_000_000 + moment.microsecond * 1000
