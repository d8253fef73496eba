"""The batch that is on its way through partial sends. Pure."""

from __future__ import annotations

from mqttkit.client.packets.outbox import Batch, Outbox


class Sending:
    """At most one batch, and how much of it the operating system has."""

    def __init__(self) -> None:
        self.rest: memoryview | bytes = b""
        """What is still to be sent."""
        self._batch: Batch | None = None

    def begin(self, batch: Batch) -> None:
        """Take a batch, when the one before is finished."""
        self._batch, self.rest = batch, memoryview(batch.data)

    def advance(self, sent: int) -> None:
        """Note that so many bytes more were taken."""
        self.rest = self.rest[sent:]

    def finish(self, outbox: Outbox) -> None:
        """Tell the outbox that the whole batch is sent, where there is one."""
        batch, self._batch = self._batch, None
        if batch is not None:
            outbox.sent(batch)

    def interrupt(self, outbox: Outbox) -> None:
        """The connection ended: what was half sent waits again."""
        batch, self._batch = self._batch, None
        if batch is not None:
            outbox.interrupted(batch, len(batch.data) - len(self.rest))
        self.rest = b""
