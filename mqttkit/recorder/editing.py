"""Cut, merge and write recordings."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from mqttkit.errors import RecordingError
from mqttkit.recorder.lines import Gap, Header, Recorded, gap_line, header_line, line_formatter
from mqttkit.recorder.recording import Recording
from mqttkit.recorder.seekable import SeekableWriter


def retained_state(recording: Recording, until_ns: int) -> dict[str, Recorded]:
    """Return the retained messages at a moment of a recording (monotonic clock), by topic."""
    state = {recorded.message.topic: recorded for recorded in recording.retained()}
    if until_ns > recording.header.monotonic_ns:
        for recorded in recording.messages():
            if recorded.monotonic_ns >= until_ns:
                break
            if recorded.message.retain:
                state[recorded.message.topic] = recorded
    return {topic: recorded for topic, recorded in state.items() if recorded.message.payload}


def cut_recording(
    source: Path, target: Path, *, start_seconds: float | None = None, end_seconds: float | None = None
) -> int:
    """Copy the part between two offsets into a new file; return how many messages it has."""
    with Recording(source) as recording:
        header = recording.header
        start = header.monotonic_ns + int((start_seconds or 0.0) * 1e9)
        end = None if end_seconds is None else header.monotonic_ns + int(end_seconds * 1e9)
        shifted = replace(
            header, started_ns=header.started_ns + start - header.monotonic_ns, monotonic_ns=start, part=1
        )
        state = retained_state(recording, start)
        entries = recording.entries(None if start_seconds is None else start)
        return write_recording(target, shifted, state.values(), _until(entries, end))


def merge_recordings(sources: Sequence[Path], target: Path) -> int:
    """Join recordings of one machine in the order of time; return how many messages the new file has.

    Times are compared on the monotonic clock, so the recordings must come from one machine that was not restarted
    between them.
    """
    with ExitStack() as stack:
        recordings = [stack.enter_context(Recording(path)) for path in sources]
        recordings.sort(key=lambda each: each.header.monotonic_ns)
        first = recordings[0].header
        for recording in recordings:
            header = recording.header
            drift = (header.started_ns - first.started_ns) - (header.monotonic_ns - first.monotonic_ns)
            if abs(drift) > 3600e9:
                raise RecordingError(
                    f"{recording.path} and {recordings[0].path} were not recorded on one clock",
                    hint="Merge only recordings of one machine that was not restarted between them",
                )
        filters = tuple(dict.fromkeys(each for recording in recordings for each in recording.header.subscriptions))
        # The state in a later file of a rotated recording holds what came live in the files before it.
        starting = [recordings[0], *(each for each in recordings[1:] if each.header.part == 1)]
        state = {each.message.topic: each for recording in reversed(starting) for each in recording.retained()}
        merged = heapq.merge(*(recording.entries() for recording in recordings), key=_time)
        return write_recording(target, replace(first, subscriptions=filters, part=1), state.values(), merged)


def _time(entry: Recorded | Gap) -> int:
    return entry.monotonic_ns if isinstance(entry, Recorded) else entry.end_ns


def _until(entries: Iterator[Recorded | Gap], end: int | None) -> Iterator[Recorded | Gap]:
    for entry in entries:
        if end is not None and _time(entry) >= end:
            return
        yield entry


def write_recording(
    target: Path, header: Header, retained: Iterable[Recorded], entries: Iterator[Recorded | Gap]
) -> int:
    """Write a new file;

    return how many live messages it has. Raise RecordingError if it exists or cannot be written.
    """
    lines, count = line_formatter(), 0
    writer = SeekableWriter(target)
    try:
        writer.write(header_line(header))
        writer.end_frame()
        writer.write(b"", split=False)
        for recorded in retained:
            writer.write(lines([recorded.message], recorded.received_ns, recorded.monotonic_ns), split=False)
        writer.end_frame()
        for entry in entries:
            if isinstance(entry, Gap):
                writer.write(gap_line(entry))
                continue
            writer.write(lines([entry.message], entry.received_ns, entry.monotonic_ns))
            count += 1
    finally:
        writer.close()
    return count
