"""The next batch parsed while the one before is being committed, which leaves the interpreter to others."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

from mqttkit.bridge.flow.intake import Intake
from mqttkit.errors import BridgeError
from mqttkit.messages import Message

logger = logging.getLogger(__name__)

T = TypeVar("T")


class Ahead(Generic[T]):
    """Work done early, and no more than that: the messages stay in the queue until the worker takes them.

    What is prepared counts only for the very same messages. Where the queue changed before the worker took its
    batch, since a connection gave messages back, it is thrown away.
    """

    def __init__(self, intake: Intake, prepare: Callable[[list[Message]], T]) -> None:
        self._intake = intake
        self._prepare = prepare
        self._found: tuple[list[Message], T] | None = None
        self._executor = ThreadPoolExecutor(1, "bridge-ahead")

    @contextlib.contextmanager
    def during(self) -> Iterator[None]:
        """Prepare a full batch as soon as one waits, while the block runs; after it nothing is under way."""
        self._intake.begin_peek()
        try:
            looking = self._executor.submit(self.look)
            yield
        finally:
            self._intake.end_peek()
        looking.result()

    def look(self) -> None:
        """Wait for a full batch, as the intake allows, and prepare it."""
        messages = self._intake.peek_full()
        if messages:
            try:
                self._found = messages, self._prepare(messages)
            except BridgeError as error:
                logger.debug("left to the worker, which tries again: %s", error)

    def take(self, messages: list[Message]) -> T | None:
        """Return what was prepared of these messages, or None."""
        found, self._found = self._found, None
        return found[1] if found is not None and found[0] == messages else None

    def close(self) -> None:
        """End the thread."""
        self._executor.shutdown()
