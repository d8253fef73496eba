"""Files of recorded advertisements: JSON lines and btsnoop. Each error names the file and the position."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from mqttkit.errors import AdvertisementError, RecordingError
from mqttkit.scanner import hci
from mqttkit.scanner.advertisement import Advertisement

GAP = 0.05
"""Seconds between two lines of a JSON recording without time stamps."""

_MAGIC = b"btsnoop\0"
_H4 = 1002
_EPOCH = 0x00DCDDB30F2F8000
"""1970 in microseconds since the year 0, where btsnoop starts to count."""
_LONGEST_RECORD = 1 << 16
_LONGEST_LINE = 1 << 20


def read_recording(path: str, *, skip: Callable[[RecordingError], None] | None = None) -> Iterator[Advertisement]:
    """Yield the advertisements of a btsnoop file or of JSON lines, with their recorded time stamps.

    The first bytes of the file decide its format, not its name. Raise RecordingError; with
    `skip`, pass it the error of an invalid record and continue with the next one.
    """
    try:
        with Path(path).open("rb") as file:
            magic = file.read(len(_MAGIC))
            if magic == _MAGIC:
                yield from _read_btsnoop(path, file, skip or _raise)
            else:
                file.seek(0)
                yield from _read_json_lines(path, file, skip or _raise)
    except OSError as error:
        raise RecordingError(f"cannot read recording {path}: {error.strerror}") from error


def _raise(error: RecordingError) -> None:
    raise error


def _read_json_lines(path: str, file: BinaryIO, skip: Callable[[RecordingError], None]) -> Iterator[Advertisement]:
    """Yield the advertisement of each non-empty line."""
    expected = 0.0
    for number, line in enumerate(iter(lambda: file.readline(_LONGEST_LINE), b""), 1):
        if not line.strip():
            continue
        try:
            heard = Advertisement.from_json(json.loads(line.decode()), timestamp=expected)
        except (AdvertisementError, ValueError, RecursionError) as error:
            skip(RecordingError(f"{path}:{number}: not an advertisement: {error}{_btsnoop_remark(path)}"))
            continue
        expected = heard.timestamp + GAP
        yield heard


def _btsnoop_remark(path: str) -> str:
    """Return a remark for a file that has the suffix of btsnoop and not its first bytes."""
    return (
        "; it is not a btsnoop file either, because it does not start with 'btsnoop'"
        if path.endswith(".btsnoop")
        else ""
    )


def _read_btsnoop(path: str, file: BinaryIO, skip: Callable[[RecordingError], None]) -> Iterator[Advertisement]:
    """Yield the advertisements of a btsnoop file (version 1, H4) after its first eight bytes."""
    version, link = struct.unpack(">II", _read_exactly(path, file, 8, len(_MAGIC)))
    if (version, link) != (1, _H4):
        raise RecordingError(
            f"{path}: btsnoop version {version}, link {link}; only version 1 and link 1002 (H4) are supported"
        )
    reassembly = hci.Reassembly()
    place = len(_MAGIC) + 8
    while header := file.read(24):
        header += _read_exactly(path, file, 24 - len(header), place)
        length, included, _, _, moment = struct.unpack(">IIIIq", header)
        if included > length or included > _LONGEST_RECORD:
            raise RecordingError(f"{path}: byte {place}: a record claims {included} of {length} bytes")
        packet = _read_exactly(path, file, included, place)
        timestamp = (moment - _EPOCH) / 1_000_000
        try:
            yield from hci.read_packet(packet, timestamp, reassembly)
        except AdvertisementError as error:
            skip(RecordingError(f"{path}: byte {place}: {error}"))
        place += 24 + included


def _read_exactly(path: str, file: BinaryIO, count: int, place: int) -> bytes:
    """Read exactly `count` bytes of the record that starts at byte `place`."""
    data = file.read(count)
    if len(data) < count:
        raise RecordingError(f"{path}: byte {place}: the file ends in the middle of a record")
    return data
