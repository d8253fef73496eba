"""The interface of every source of advertisements."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import TypeVar

from mqttkit.scanner.advertisement import Advertisement

_Self = TypeVar("_Self", bound="Source")


class Source(ABC):
    """A blocking iterator of advertisements and a context manager. One thread may iterate, once."""

    @property
    @abstractmethod
    def scanning(self) -> bool:
        """False if the source is closed, at its end, or without its radio."""

    @property
    def dropped(self) -> Mapping[str, int]:
        """Number of advertisements that the source dropped, by cause. Any thread may read it."""
        return {}

    def start(self) -> None:  # noqa: B027 - most sources need no start
        """Start the scan; raise a MqttkitError if that fails. Entering the context calls it."""

    @abstractmethod
    def batches(self) -> Iterator[list[Advertisement]]:
        """Yield the advertisements since the last batch; block until there is at least one."""

    @abstractmethod
    def close(self) -> None:
        """End the iteration without blocking. Any thread or signal handler may call it, more than once."""

    def __iter__(self) -> Iterator[Advertisement]:
        return itertools.chain.from_iterable(self.batches())

    def __enter__(self: _Self) -> _Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
