"""Parse the next batch while the sink commits the current one."""

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


class ReadAhead(Generic[T]):
    """Prepare a batch early. Its messages stay in the queue until the worker takes them.

    The worker uses the prepared batch only if it takes exactly the same messages. If a reconnect changed the
    queue, the prepared batch is discarded.
    """

    def __init__(self, intake: Intake, prepare: Callable[[list[Message]], T]) -> None:
        self._intake = intake
        self._prepare = prepare
        self._found: tuple[list[Message], T] | None = None
        self._executor = ThreadPoolExecutor(1, "bridge-ahead")

    @contextlib.contextmanager
    def while_committing(self) -> Iterator[None]:
        """While the block runs, prepare the next full batch. After the block, no preparation is running."""
        self._intake.begin_peek()
        try:
            preparing = self._executor.submit(self.prepare_next)
            yield
        finally:
            self._intake.end_peek()
        preparing.result()

    def prepare_next(self) -> None:
        """Wait for a full batch, as the intake allows, and prepare it."""
        messages = self._intake.peek_full()
        if messages:
            try:
                self._found = messages, self._prepare(messages)
            except BridgeError as error:
                logger.debug("cannot prepare the next batch early; the worker tries again: %s", error)

    def take(self, messages: list[Message]) -> T | None:
        """Return the batch prepared from these messages, or None."""
        found, self._found = self._found, None
        return found[1] if found is not None and found[0] == messages else None

    def close(self) -> None:
        """End the thread."""
        self._executor.shutdown()
