"""A recording: one file, its header, the retained state at its start, and what was received."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from mqttkit.errors import RecordingError, UsageError
from mqttkit.recorder.lines import Gap, Header, Recorded, line_time, parse_line
from mqttkit.recorder.seekable import SeekableFile

HEADER_FRAME, RETAINED_FRAME, LIVE_FRAMES = 0, 1, 2
"""Frames of a file: the header, the retained state, then everything that was received."""
SUFFIX = ".jsonl.zst"


@dataclass(frozen=True)
class RecordingSummary:
    """What a recording contains."""

    header: Header
    finished: bool
    """False if the recorder was killed: the file ends with its last flush."""
    retained: int
    """Messages in the retained state at the start."""
    messages: int
    """Messages received."""
    payload_bytes: int
    topics: int
    """Different topic names, the retained state included."""
    first_ns: int
    """Monotonic time of the first message; the start of the recording if there is none."""
    last_ns: int
    gaps: tuple[Gap, ...]
    file_bytes: int
    line_bytes: int
    """Bytes of the lines before compression."""

    @property
    def seconds(self) -> float:
        """Time from the first message to the last one."""
        return (self.last_ns - self.first_ns) / 1e9


class Recording:
    """Reads a recording. One thread at a time. A context manager.

    Times are the recorder's monotonic clock in nanoseconds; `offset_ns` counts from the start of the recording.
    """

    def __init__(self, path: Path) -> None:
        """Open the file; raise RecordingError if it is not a recording, MissingPart without zstandard."""
        self._file = SeekableFile(path)
        self.path = path
        self._first: dict[int, int | None] = {}
        try:
            self.header = self._read_header()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Recording:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    @property
    def finished(self) -> bool:
        """True if the recorder closed the file."""
        return self._file.finished

    def retained(self) -> Iterator[Recorded]:
        """Yield the retained messages that the broker had when the recording started."""
        if len(self._file.frames) > RETAINED_FRAME:
            for entry in _entries(self._lines(RETAINED_FRAME)):
                if isinstance(entry, Recorded):
                    yield entry

    def entries(self, start_ns: int | None = None) -> Iterator[Recorded | Gap]:
        """Yield messages and gaps in the order received, those at or after `start_ns` (monotonic) if it is given."""
        first = LIVE_FRAMES
        if start_ns is not None and len(self._file.frames) > first:
            first = self._frame_at(start_ns)
            lines = list(self._lines(first))
            yield from _entries(lines[bisect_left(lines, start_ns, key=line_time) :])
            first += 1
        for index in range(first, len(self._file.frames)):
            yield from _entries(self._lines(index))

    def messages(self, start_ns: int | None = None) -> Iterator[Recorded]:
        """Yield the messages of `entries`."""
        return (entry for entry in self.entries(start_ns) if isinstance(entry, Recorded))

    def summary(self) -> RecordingSummary:
        """Read the whole file once and return what it contains."""
        retained = messages = size = line_bytes = 0
        first = last = self.header.monotonic_ns
        topics, gaps = set[str](), list[Gap]()
        for recorded in self.retained():
            retained += 1
            topics.add(recorded.message.topic)
        for entry in self.entries():
            if isinstance(entry, Gap):
                gaps.append(entry)
                continue
            first = first if messages else entry.monotonic_ns
            last = entry.monotonic_ns
            messages += 1
            size += len(entry.message.payload)
            topics.add(entry.message.topic)
        for index in range(len(self._file.frames)):
            line_bytes += sum(len(chunk) for chunk in self._file.chunks(index))
        return RecordingSummary(
            header=self.header,
            finished=self.finished,
            retained=retained,
            messages=messages,
            payload_bytes=size,
            topics=len(topics),
            first_ns=first,
            last_ns=last,
            gaps=tuple(gaps),
            file_bytes=self.path.stat().st_size,
            line_bytes=line_bytes,
        )

    def _read_header(self) -> Header:
        for line in self._lines(HEADER_FRAME):
            entry = parse_line(line)
            if isinstance(entry, Header):
                return entry
            break
        raise RecordingError(f"{self.path} is not a recording: its first line is not a header")

    def _frame_at(self, start_ns: int) -> int:
        """Return the last frame that starts at or before the time: the first one that has to be read."""
        low, high = LIVE_FRAMES, len(self._file.frames)
        while high - low > 1:
            middle = (low + high) // 2
            when = self._first_time(middle)
            if when is None or when > start_ns:
                high = middle
            else:
                low = middle
        return low

    def _first_time(self, index: int) -> int | None:
        """Return the time of the first line in a frame; None if it has none."""
        if index not in self._first:
            line = next(self._lines(index), None)
            self._first[index] = None if line is None else line_time(line)
        return self._first[index]

    def _lines(self, index: int) -> Iterator[bytes]:
        """Yield the lines of a frame; an incomplete frame may end within a line, which is dropped."""
        rest = b""
        for chunk in self._file.chunks(index):
            *lines, rest = (rest + chunk).split(b"\n")
            yield from lines
        if rest and self._file.frames[index].complete:
            raise RecordingError(f"{self.path} is damaged: a frame ends within a line")


def _entries(lines: Iterable[bytes]) -> Iterator[Recorded | Gap]:
    return (entry for entry in map(parse_line, lines) if not isinstance(entry, Header))


def parse_offset(text: str, header: Header) -> float:
    """Return seconds after the start of a recording:

    `90`, `1:30`, `1:02:03.5`, or a time such as 2026-01-11T10:30:45Z.
    """
    seconds = 0.0
    try:
        if "T" in text:
            moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
            seconds = moment.timestamp() - header.started_ns / 1e9
        else:
            for part in text.split(":"):
                seconds = seconds * 60 + float(part)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise UsageError(f"{text!r} is not a time in the recording", hint="Use 90, 1:30 or 2026-01-11T10:30:45Z")
    return seconds
