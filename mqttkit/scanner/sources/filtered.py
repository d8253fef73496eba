"""A source whose advertisements pass filters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import TracebackType

from mqttkit.scanner.advertisement import Advertisement
from mqttkit.scanner.filters import Filters
from mqttkit.scanner.sources.protocol import Source


class FilteredSource(Source):
    """A source behind filters."""

    def __init__(self, source: Source, filters: Filters) -> None:
        self._source = source
        self._filters = filters

    @property
    def scanning(self) -> bool:
        """Implement Source."""
        return self._source.scanning

    @property
    def dropped(self) -> Mapping[str, int]:
        """Implement Source."""
        return {**self._source.dropped, **self._filters.dropped}

    def close(self) -> None:
        """Implement Source."""
        self._source.close()

    def start(self) -> None:
        """Implement Source."""
        self._source.start()

    def batches(self) -> Iterator[list[Advertisement]]:
        """Implement Source."""
        for heard in self._source.batches():
            if batch := self._filters.apply(heard):
                yield batch

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._source.__exit__(kind, error, traceback)
