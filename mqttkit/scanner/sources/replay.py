"""A source that replays a recording."""

from __future__ import annotations

import itertools
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from mqttkit.errors import RecordingError, UsageError
from mqttkit.scanner.advertisement import Advertisement
from mqttkit.scanner.recording import read_recording
from mqttkit.scanner.sources.paced import PacedSource

log = logging.getLogger(__name__)

KEPT = 10_000
"""Advertisements of a recording kept in memory; a longer recording is read again in each round."""

LONGEST_WAIT = 86_400.0
"""Seconds. A longer gap in a recording means that someone set the clock; it is skipped."""


class ReplaySource(PacedSource):
    """Emit a recording `speed` times as fast as it was recorded (None: without pauses), once or indefinitely.

    Time stamps are those of the replay. A file of up to KEPT advertisements is read completely before the first
    one is emitted. Invalid records are skipped and counted as `malformed`; if the source is `strict`, they raise
    RecordingError, as does a file without a valid record.
    """

    def __init__(self, path: str, *, speed: float | None = 1.0, loop: bool = False, strict: bool = False) -> None:
        if speed is not None and not 0 < speed < float("inf"):
            raise UsageError(f"speed must be above 0 or max, got {speed}")
        super().__init__()
        self.path = path
        self.speed = speed
        self.loop = loop
        self._strict = strict
        self._dropped: Counter[str] = Counter()
        self._first_error: RecordingError | None = None
        kept = list(itertools.islice(self._read(), KEPT + 1))
        if not kept:
            raise self._first_error or RecordingError(f"{path} contains no advertisements")
        self._kept = kept if len(kept) <= KEPT else None

    @property
    def dropped(self) -> Mapping[str, int]:
        """Implement Source."""
        return self._dropped

    def upcoming(self) -> Iterable[tuple[float, Advertisement]]:
        """Implement PacedSource."""
        rounds: Iterable[int] = itertools.count() if self.loop else range(1)
        everything = itertools.chain.from_iterable(self._once() for _ in rounds)
        if self.speed is None:
            return ((0.0, heard) for heard in everything)
        return _at_pace(everything, self.speed)

    def _once(self) -> Iterable[Advertisement]:
        return self._read() if self._kept is None else self._kept

    def _read(self) -> Iterator[Advertisement]:
        return read_recording(self.path, skip=None if self._strict else self._skip)

    def _skip(self, error: RecordingError) -> None:
        """Count an invalid record; log the first one."""
        self._dropped["malformed"] += 1
        if self._first_error is None:
            self._first_error = error
            log.warning("skipping invalid records: %s", error)


def _at_pace(heard: Iterable[Advertisement], speed: float) -> Iterator[tuple[float, Advertisement]]:
    """Yield each advertisement with its time; no time passes if the clock of the recording goes back."""
    offset = 0.0
    previous = None
    for advertisement in heard:
        if previous is not None and 0 < advertisement.timestamp - previous < LONGEST_WAIT:
            offset += (advertisement.timestamp - previous) / speed
        previous = advertisement.timestamp
        yield offset, advertisement
