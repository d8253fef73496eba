"""A source that replays a recording."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator

from mqttkit.errors import RecordingError, UsageError
from mqttkit.scanner.advertisement import Advertisement
from mqttkit.scanner.recording import read_recording
from mqttkit.scanner.sources.paced import PacedSource

KEPT = 10_000
"""Advertisements of a recording kept in memory; a longer recording is read again in each round."""

LONGEST_WAIT = 86_400.0
"""Seconds. A longer gap in a recording means that someone set the clock; it is skipped."""


class ReplaySource(PacedSource):
    """Emit a recording `speed` times as fast as it was recorded (None: without pauses), once or indefinitely.

    Time stamps are those of the replay. A file of up to KEPT advertisements is read completely before the first
    one is emitted, so an invalid file raises RecordingError here.
    """

    def __init__(self, path: str, *, speed: float | None = 1.0, loop: bool = False) -> None:
        if speed is not None and not 0 < speed < float("inf"):
            raise UsageError(f"speed must be above 0 or max, got {speed}")
        super().__init__()
        self.path = path
        self.speed = speed
        self.loop = loop
        reader = read_recording(path)
        kept = list(itertools.islice(reader, KEPT + 1))
        if not kept:
            raise RecordingError(f"{path} contains no advertisements")
        self._kept = kept if len(kept) <= KEPT else None

    def upcoming(self) -> Iterable[tuple[float, Advertisement]]:
        """Implement PacedSource."""
        rounds: Iterable[int] = itertools.count() if self.loop else range(1)
        everything = itertools.chain.from_iterable(self._once() for _ in rounds)
        if self.speed is None:
            return ((0.0, heard) for heard in everything)
        return _at_pace(everything, self.speed)

    def _once(self) -> Iterable[Advertisement]:
        return read_recording(self.path) if self._kept is None else self._kept


def _at_pace(heard: Iterable[Advertisement], speed: float) -> Iterator[tuple[float, Advertisement]]:
    """Yield each advertisement with its time; no time passes if the clock of the recording goes back."""
    offset = 0.0
    previous = None
    for advertisement in heard:
        if previous is not None and 0 < advertisement.timestamp - previous < LONGEST_WAIT:
            offset += (advertisement.timestamp - previous) / speed
        previous = advertisement.timestamp
        yield offset, advertisement
