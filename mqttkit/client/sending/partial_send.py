"""The batch that is being sent, in as many pieces as the socket takes. Pure."""

from __future__ import annotations

from mqttkit.client.sending.outbox import Outbox
from mqttkit.client.sending.packet_batch import PacketBatch


class PartialSend:
    """At most one batch, and how much of it the operating system has taken."""

    def __init__(self) -> None:
        self.rest: memoryview | bytes = b""
        """What is still to be sent."""
        self._batch: PacketBatch | None = None

    def begin(self, batch: PacketBatch) -> None:
        """Start a batch; the previous one must be finished."""
        self._batch, self.rest = batch, memoryview(batch.data)

    def advance(self, sent: int) -> None:
        """Count `sent` more bytes as taken."""
        self.rest = self.rest[sent:]

    def finish(self, outbox: Outbox) -> None:
        """Report the whole batch, if there is one, to the outbox as sent."""
        batch, self._batch = self._batch, None
        if batch is not None:
            outbox.sent(batch)

    def interrupt(self, outbox: Outbox) -> None:
        """The connection ended: publishes that were not sent whole go back to the outbox."""
        batch, self._batch = self._batch, None
        if batch is not None:
            outbox.interrupted(batch, len(batch.data) - len(self.rest))
        self.rest = b""
