"""What every source of advertisements is."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import TypeVar

from mqttkit.scanner.advertisement import Advertisement

_Self = TypeVar("_Self", bound="Source")


class Source(ABC):
    """A blocking iterator of advertisements, and a context manager; one thread iterates, once."""

    @property
    @abstractmethod
    def scanning(self) -> bool:
        """False while the source is closed, at its end, or its radio is away."""

    @property
    def dropped(self) -> Mapping[str, int]:
        """Advertisements not passed on so far, by cause; any thread may read it."""
        return {}

    def start(self) -> None:  # noqa: B027 - a source that needs no start has none
        """Start the scan; raise what is wrong with it. Entering the context calls it."""

    @abstractmethod
    def batches(self) -> Iterator[list[Advertisement]]:
        """Yield what has come since the last batch, never an empty list; block while there is nothing."""

    @abstractmethod
    def close(self) -> None:
        """End the iteration; never blocks. Any thread or signal handler may call it, and again."""

    def __iter__(self) -> Iterator[Advertisement]:
        return itertools.chain.from_iterable(self.batches())

    def __enter__(self: _Self) -> _Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
