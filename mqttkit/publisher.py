"""Publish a stream of messages and know what became of each.

with MqttClient(settings) as client:
    client.connect()
    publisher = Publisher(client)
    publisher.send(messages)
    publisher.finish(timeout=30)
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable, Sequence

from mqttkit.client import BlockReceipt, MqttClient, Receipt
from mqttkit.client.control import round_trip
from mqttkit.client.failures import discouraged_hint
from mqttkit.client.sending import send_limits
from mqttkit.errors import ConnectionRefused, MqttkitError, PublishDenied, PublishFailed, PublishLost
from mqttkit.messages import Message, Outcome

log = logging.getLogger(__name__)

SETTLE_EVERY = 1000
"""Check outcomes after this many messages of a block."""
LOWERED = "with a lower QoS or without the retain flag, because the broker takes no more"
PROGRESS_BYTES = 16 * 1024
"""Fewer bytes in the time limit of `finish` are no progress: they may be those of the keep alive."""
PATIENCE = 1e7
"""Seconds that a message waits for room and for a connection: the producer waits, and nothing is dropped."""


class Publisher:
    """Publishes streams of messages over a connected client and counts their outcomes.

    Use it in one thread, and not in a handler: `send` blocks while the client's queue is full or the client is not
    connected, so that memory stays flat and the producer slows down.
    """

    def __init__(self, client: MqttClient, *, patience: float = PATIENCE, lower: bool = False) -> None:
        """If `lower` is True, messages go with the QoS and without the retain flag that the broker does not take."""
        self.delivered = 0
        """Messages acknowledged, or sent at QoS 0."""
        self.failed = 0
        """Messages denied, dropped or lost."""
        self._client = client
        self._patience = patience
        self._lower = lower
        self._lowered = 0
        self._open: deque[tuple[str, Receipt | BlockReceipt]] = deque()
        self._opened = 0
        """Messages of the receipts in `_open`, some of which may be known."""
        self._too_many = self._limit = 2 * client.settings.limits.max_queued_messages + SETTLE_EVERY
        self._unconfirmed = False
        self._first_loss = self._loss_hint = ""
        self._warned_of_loss = self._warned_of_properties = False

    @property
    def unresolved(self) -> int:
        """Messages whose outcome was unknown at the last check."""
        return sum(_pending(receipt) for _, receipt in self._open)

    def send(self, messages: Iterable[Message]) -> None:
        """Publish each message.

        Raises PublishDenied once the broker has denied one, TopicError if a topic name is malformed, and the client's
        own error if the client no longer tries to connect.
        """
        self._warn_of_loss()
        publish, opened, patience = self._client.publish, self._open, self._patience
        if self._lower and self._client.broker_limits.restricted:
            messages = map(self._as_taken, messages)
        for count, (topic, payload, qos, retain, _dup, _mid, properties, _epoch) in enumerate(messages, 1):
            if not qos:
                self._unconfirmed = True
            if properties is not None and self._client.protocol_version != 5:
                self._warn_of_properties()
            receipt = publish(topic, payload, qos=qos, retain=retain, properties=properties, wait=patience)
            opened.append((topic, receipt))
            self._opened += 1
            if count % SETTLE_EVERY == 0:
                self.settle()
        self.settle()

    def send_block(self, message: Message, payloads: Sequence[bytes]) -> None:
        """Publish a message like `message` for each payload. Raises what `send` raises."""
        self._warn_of_loss()
        topic, _, qos, retain, _, _, properties, _ = message
        self._unconfirmed = self._unconfirmed or not qos
        if properties is not None and self._client.protocol_version != 5:
            self._warn_of_properties()
        block = self._client.publish_many(
            topic, payloads, qos=qos, retain=retain, properties=properties, wait=self._patience
        )
        self._open.append((topic, block))
        self._opened += len(block)
        self.settle()

    def finish(self, timeout: float) -> None:
        """Wait until the broker has every message; raise PublishFailed if it has not.

        The wait ends `timeout` seconds after the last bytes were sent: a large message over a slow link takes longer.
        """
        sent = self._client.stats.sent_bytes
        while not self._client.flush(timeout):
            before, sent = sent, self._client.stats.sent_bytes
            if sent - before < PROGRESS_BYTES:
                break
        if self._lowered:
            log.warning("%d of %d messages published %s", self._lowered, self._total(), LOWERED)
        self.settle()
        if self._open:
            topic = self._open[0][0]
            raise PublishFailed(
                f"{self.unresolved} of {self._total()} messages not acknowledged within {timeout:g} s,"
                f" the first on topic {topic!r}"
            )
        if self.failed:
            text = f"{self.failed} of {self._total()} messages not delivered: {self._first_loss}"
            raise PublishFailed(text, hint=self._loss_hint)
        if self._unconfirmed:
            self._confirm(timeout)

    def settle(self) -> None:
        """Count the outcomes of the oldest messages, up to the first unknown one; raise as `send` does."""
        opened = self._open
        while opened:
            topic, receipt = opened[0]
            if receipt.outcome is None:
                if isinstance(receipt, BlockReceipt) and receipt.failed:
                    self._check_denied(topic, receipt)
                break
            opened.popleft()
            self._count(topic, receipt)
        if self._opened > self._limit:
            self._settle_behind_the_head()
            self._limit = self._opened + self._too_many

    def _settle_behind_the_head(self) -> None:
        """Count what is known behind an unknown outcome; the client bounds how many are unknown."""
        waiting = [(topic, receipt, receipt.done) for topic, receipt in self._open]
        self._open.clear()
        self._open.extend((topic, receipt) for topic, receipt, done in waiting if not done)
        for topic, receipt, done in waiting:
            if done:
                self._count(topic, receipt)

    def _count(self, topic: str, receipt: Receipt | BlockReceipt) -> None:
        if isinstance(receipt, BlockReceipt):
            self._opened -= len(receipt)
            self.delivered += receipt.delivered
            self.failed += receipt.failed
            self._check_denied(topic, receipt)
            for _, failed, reason, code in receipt.failures[:1]:
                self._record_failure(topic, receipt.qos, failed, reason, code)
            return
        self._opened -= 1
        outcome = receipt.outcome
        if outcome is Outcome.SENT or outcome is Outcome.ACKNOWLEDGED:
            self.delivered += 1
        elif outcome is not None:
            self.failed += 1
            self._record_failure(topic, receipt.qos, outcome, receipt.reason, receipt.code)

    def _check_denied(self, topic: str, block: BlockReceipt) -> None:
        """Raise PublishDenied for the first message of a block that the broker denied."""
        for _, outcome, reason, code in block.failures if block.failed else ():
            if outcome is Outcome.DENIED:
                if not block.done:
                    self.delivered += block.delivered
                self._record_failure(topic, block.qos, outcome, reason, code)

    def _total(self) -> int:
        return self.delivered + self.failed + self._opened

    def _record_failure(self, topic: str, qos: int, outcome: Outcome, reason: str, code: int) -> None:
        if outcome is Outcome.DENIED:
            hint = f"{self.delivered} earlier messages were delivered" if self.delivered else ""
            raise PublishDenied(topic, reason.lower() or f"reason code 0x{code:02x}", code=code, hint=hint)
        failure = self._client.failure
        if self._client.given_up and failure is not None:
            if outcome is Outcome.LOST and qos and not isinstance(failure, ConnectionRefused):
                raise PublishLost(topic, f"not acknowledged: {failure}", hint=failure.hint)
            raise failure
        if not self._first_loss:
            self._first_loss = f"the first on topic {topic!r}: {reason}"
            self._loss_hint = send_limits.hint(reason) or discouraged_hint(topic)

    def _confirm(self, timeout: float) -> None:
        """Confirm with a round trip that the broker has read the messages of QoS 0.

        A broker that closes the connection over a publish that it denies (MQTT 5, 4.13; MQTT 3.1.1, 3.3.5) does so
        before it answers.
        """
        try:
            round_trip(self._client, timeout)
        except MqttkitError as error:
            raise PublishFailed(f"delivery not confirmed: {error}", hint="Use -q 1 to learn why") from error

    def _as_taken(self, message: Message) -> Message:
        """Return the message with the QoS and the retain flag that the broker takes; warn once, and count."""
        limits = self._client.broker_limits
        taken = message._replace(qos=min(message.qos, limits.max_qos), retain=message.retain and limits.retain)
        if taken != message:
            if not self._lowered:
                log.warning("messages are published %s", LOWERED)
            self._lowered += 1
        return taken

    def _warn_of_loss(self) -> None:
        if self.failed and not self._warned_of_loss:
            self._warned_of_loss = True
            log.warning("a message was not delivered, %s", self._first_loss)

    def _warn_of_properties(self) -> None:
        if not self._warned_of_properties:
            self._warned_of_properties = True
            log.warning("the connection uses MQTT 3.1.1, which has no properties: messages go without them")


def _pending(receipt: Receipt | BlockReceipt) -> int:
    return receipt.unresolved if isinstance(receipt, BlockReceipt) else 1
