"""Several sources as one: the adapters of a machine."""

from __future__ import annotations

import queue
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType

from mqttkit.scanner.advertisement import Advertisement
from mqttkit.scanner.sources.protocol import Source

WAITING = 100
"""Batches that may wait for the iterating thread. Above this the sources' own queues fill."""


class JoinedSource(Source):
    """Yields the batches of several sources as they arrive, until all of them have ended.

    The error of one source ends the iteration. A radio that is lost raises no error, and the others continue.
    """

    def __init__(self, sources: Sequence[Source]) -> None:
        self._sources = sources
        self._queue: queue.Queue[list[Advertisement] | BaseException | None] = queue.Queue(WAITING)

    @property
    def scanning(self) -> bool:
        """Implement Source; True while at least one source scans."""
        return any(source.scanning for source in self._sources)

    @property
    def dropped(self) -> Mapping[str, int]:
        """Implement Source."""
        return sum((Counter(source.dropped) for source in self._sources), Counter[str]())

    def start(self) -> None:
        """Implement Source; if one source fails, close those that have started."""
        started: list[Source] = []
        try:
            for source in self._sources:
                source.start()
                started.append(source)
        except BaseException:
            for source in started:
                source.__exit__(None, None, None)
            raise

    def batches(self) -> Iterator[list[Advertisement]]:
        """Implement Source."""
        for number, source in enumerate(self._sources):
            threading.Thread(target=self._forward, args=(source,), name=f"join-{number}", daemon=True).start()
        remaining = len(self._sources)
        while remaining:
            batch = self._queue.get()
            if isinstance(batch, BaseException):
                raise batch
            if batch is None:
                remaining -= 1
            else:
                yield batch

    def close(self) -> None:
        """Implement Source."""
        for source in self._sources:
            source.close()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for source in self._sources:
            source.__exit__(kind, error, traceback)

    def _forward(self, source: Source) -> None:
        """Put the batches of one source into the queue, then None or its error."""
        end: BaseException | None = None
        try:
            for batch in source.batches():
                self._queue.put(batch)
        except BaseException as error:  # noqa: BLE001  # `batches` raises it in the iterating thread
            end = error
        self._queue.put(end)
