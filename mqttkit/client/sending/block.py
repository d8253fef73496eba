"""Many messages for one topic, published together, and the outcome of each. No object per message.

A `Block` waits in the outbox in one or more `BlockSlice`s: what fits at a time. Its messages of QoS 1 and 2 in flight
are in `IdentifierRange`s: message number = packet identifier + offset.
"""

from __future__ import annotations

import threading
from itertools import repeat
from typing import NamedTuple

from mqttkit.client.sending.receipt import Receipt
from mqttkit.errors import PublishDenied, PublishLost
from mqttkit.messages import Outcome

_OUTCOMES = (None, *Outcome)
"""What the bytes of `_states` mean."""
_STATES = {outcome: state for state, outcome in enumerate(_OUTCOMES) if outcome is not None}
_GOOD = (Outcome.ACKNOWLEDGED, Outcome.SENT)


class Failure(NamedTuple):
    """A message of a block that was not delivered."""

    place: int
    """Its place in the block, counted from 0."""
    outcome: Outcome
    """DENIED, DROPPED or LOST."""
    reason: str
    code: int
    """Reason code of the acknowledgement; 0 if there was none."""


class BlockReceipt:
    """The outcomes of the messages of one `publish_many`, in their order. Any thread may read it."""

    def __init__(
        self,
        condition: threading.Condition,
        topic: bytes,
        payloads: list[bytes],
        qos: int = 0,
        retain: bool = False,
        properties: bytes = b"",
    ) -> None:
        """`topic` and `properties` are as they go on the wire, see `Receipt`; the block owns `payloads`."""
        self.topic, self.payloads, self.qos, self.retain, self.properties = topic, payloads, qos, retain, properties
        self.unresolved = len(payloads)
        """Messages whose outcome is not known yet."""
        self.failed = 0
        """Messages denied, dropped or lost."""
        self.queued = 0
        """Messages that the outbox has taken, or that were dropped."""
        self.largest = max(map(len, payloads), default=0)
        """Bytes of the largest payload."""
        self.fixed = len(topic) + len(properties)
        """Bytes that a message counts against the byte limit in addition to its payload."""
        self._condition = condition
        self._states = bytearray(len(payloads))
        self._failures: dict[int, tuple[Outcome, str, int]] = {}

    def __len__(self) -> int:
        return len(self._states)

    @property
    def done(self) -> bool:
        """True once every outcome is known."""
        return self.unresolved == 0

    @property
    def outcome(self) -> Outcome | None:
        """None until every outcome is known; then that of the first message not delivered, or of all of them."""
        if self.unresolved:
            return None
        if self.failed:
            return self.failures[0].outcome
        return Outcome.ACKNOWLEDGED if self.qos else Outcome.SENT

    @property
    def ok(self) -> bool:
        """True if the broker acknowledged every message, or if all were sent at QoS 0."""
        return self.outcome in _GOOD

    @property
    def delivered(self) -> int:
        """Messages acknowledged, or sent at QoS 0."""
        return len(self._states) - self.unresolved - self.failed

    @property
    def outcomes(self) -> list[Outcome | None]:
        """The outcome of each message; None if it is not known yet."""
        return [_OUTCOMES[state] for state in self._states]

    @property
    def failures(self) -> list[Failure]:
        """The messages denied, dropped or lost so far, in the order of the block."""
        return [Failure(place, *found) for place, found in sorted(self._failures.copy().items())]

    def wait(self, timeout: float | None = None) -> Outcome | None:
        """Wait up to `timeout` seconds until every outcome is known; return `outcome`.

        Never raises. Blocks, so do not call it in a handler: handlers run in the network thread.
        """
        if self.unresolved:
            with self._condition:
                self._condition.wait_for(lambda: self.unresolved == 0, timeout)
        return self.outcome

    def result(self, timeout: float | None = None) -> Outcome:
        """Wait up to `timeout` seconds and return ACKNOWLEDGED, or SENT at QoS 0.

        Raises PublishDenied if the broker rejects a message, PublishLost if one was dropped or lost, and TimeoutError
        if an outcome is still unknown: all three are about the first message that was not delivered. Blocks like
        `wait`.
        """
        outcome = self.wait(timeout)
        topic = self.topic[2:].decode()
        if self.failed:
            place, failed, reason, code = self.failures[0]
            where = f"message {place + 1} of {len(self)}: {reason}"
            if failed is Outcome.DENIED:
                raise PublishDenied(topic, where.lower(), code=code)
            raise PublishLost(topic, where)
        if outcome is None:
            text = f"no acknowledgement for {self.unresolved} of {len(self)} publishes to {topic!r}"
            raise TimeoutError(f"{text} within {timeout:g} s")
        return outcome

    def __repr__(self) -> str:
        return f"BlockReceipt({len(self)} messages, {self.unresolved} pending, {self.failed} failed)"

    # The outbox calls what follows, under its lock.

    def size(self, start: int, stop: int) -> int:
        """Return the bytes that messages count against the byte limit."""
        return sum(map(len, self.payloads[start:stop])) + (stop - start) * self.fixed

    def message(self, index: int) -> Receipt:
        """Return one message for code that handles single ones; its outcome goes nowhere."""
        return Receipt(self._condition, 0, self.topic, self.payloads[index], self.qos, self.retain, self.properties)

    def resolve(self, start: int, stop: int, outcome: Outcome, reason: str = "", code: int = 0) -> int:
        """Set the outcome of messages and drop their payloads; return the bytes that this frees."""
        freed, count = self.size(start, stop), stop - start
        self.payloads[start:stop] = repeat(b"", count)
        if outcome not in _GOOD:
            self._failures.update(zip(range(start, stop), repeat((outcome, reason, code))))
            self.failed += count
        self._states[start:stop] = bytes((_STATES[outcome],)) * count
        if count == self.unresolved:
            self.payloads = []
        self.unresolved -= count  # last: whoever sees 0 sees every outcome
        return freed


class BlockSlice:
    """Messages `start` to `stop` of a block that wait in the outbox, or that are in a batch."""

    __slots__ = ("block", "largest", "qos", "start", "stop")

    def __init__(self, block: BlockReceipt, start: int, stop: int) -> None:
        self.block, self.start, self.stop = block, start, stop
        self.qos = block.qos
        self.largest = block.largest
        """No payload has more bytes; `measure` finds the exact number."""

    def __len__(self) -> int:
        return self.stop - self.start

    @property
    def first_payload(self) -> bytes:
        """The payload of the first message."""
        return self.block.payloads[self.start]

    def measure(self) -> None:
        """Set `largest` to the size of the largest payload of the slice."""
        self.largest = max(map(len, self.block.payloads[self.start : self.stop]))


class IdentifierRange:
    """Messages of a block in flight under consecutive packet identifiers."""

    __slots__ = ("block", "offset", "qos")

    def __init__(self, block: BlockReceipt, offset: int) -> None:
        self.block, self.offset = block, offset
        self.qos = block.qos

    def message(self, mid: int) -> Receipt:
        """Return the message with this packet identifier, see `BlockReceipt.message`."""
        return self.block.message(mid + self.offset)

    def slice(self, mid: int) -> BlockSlice:
        """Return the slice that is only the message with this packet identifier."""
        return BlockSlice(self.block, mid + self.offset, mid + self.offset + 1)
