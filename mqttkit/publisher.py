"""Messages to the broker, and the truth about each of them.

with MqttClient(settings) as client:
    client.connect()
    sender = Sender(client)
    sender.send(messages)
    sender.finish(timeout=30)
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable

from mqttkit.client import MqttClient, Receipt
from mqttkit.client.failures import shunned_hint
from mqttkit.errors import MqttkitError, PublishFailed
from mqttkit.messages import Message, Outcome

log = logging.getLogger(__name__)

SETTLE_EVERY = 1000
"""Messages of a block after which outcomes are looked at."""
PATIENCE = 1e7
"""Seconds that a message waits for room and a connection: the producer waits, nothing is dropped."""


class Sender:
    """Publishes streams of messages over a connected client, and keeps count of what became of them.

    Not thread-safe, and not for the network thread: `send` blocks while the client's queue is full or the
    connection is away, so that memory stays flat and the producer slows down.
    """

    def __init__(self, client: MqttClient, *, patience: float = PATIENCE) -> None:
        self.delivered = 0
        """Messages acknowledged, or sent at QoS 0."""
        self.failed = 0
        """Messages denied, dropped or lost."""
        self._client = client
        self._patience = patience
        self._open: deque[tuple[str, Receipt]] = deque()
        self._unproved = False
        self._first_loss = self._loss_hint = ""
        self._told_of_loss = self._told_of_properties = False

    @property
    def unresolved(self) -> int:
        """Messages whose outcome was not known when it was looked at last."""
        return len(self._open)

    def send(self, messages: Iterable[Message]) -> None:
        """Publish each message.

        Raises PublishFailed once the broker has denied one, TopicError for a malformed topic name, and the
        client's own error where the client has given up the broker.
        """
        if self.failed and not self._told_of_loss:
            self._told_of_loss = True
            log.warning("a message is not delivered, %s", self._first_loss)
        publish, opened, patience = self._client.publish, self._open, self._patience
        for count, (topic, payload, qos, retain, _dup, _mid, properties, _epoch) in enumerate(messages, 1):
            if not qos:
                self._unproved = True
            if properties is not None and self._client.protocol_version != 5:
                self._tell_of_properties()
            receipt = publish(topic, payload, qos=qos, retain=retain, properties=properties, wait=patience)
            opened.append((topic, receipt))
            if count % SETTLE_EVERY == 0:
                self.settle()
        self.settle()

    def finish(self, timeout: float) -> None:
        """Wait up to `timeout` seconds until the broker has everything; raise PublishFailed where it has not."""
        self._client.flush(timeout)
        self.settle()
        if self._open:
            topic = self._open[0][0]
            raise PublishFailed(
                f"{len(self._open)} of {self._total()} messages not acknowledged within {timeout:g} s,"
                f" the first on topic {topic!r}"
            )
        if self.failed:
            text = f"{self.failed} of {self._total()} messages not delivered: {self._first_loss}"
            raise PublishFailed(text, hint=self._loss_hint)
        if self._unproved:
            self._prove(timeout)

    def settle(self) -> None:
        """Count the oldest receipts, up to the first one that is still under way; raise as `send` does."""
        opened = self._open
        while opened:
            topic, receipt = opened[0]
            outcome = receipt.outcome
            if outcome is None:
                return
            opened.popleft()
            if outcome is Outcome.SENT or outcome is Outcome.ACKNOWLEDGED:
                self.delivered += 1
            else:
                self.failed += 1
                self._note_failure(topic, receipt)

    def _total(self) -> int:
        return self.delivered + self.failed + len(self._open)

    def _note_failure(self, topic: str, receipt: Receipt) -> None:
        if receipt.outcome is Outcome.DENIED:
            reason = receipt.reason or f"reason code {receipt.code}"
            raise PublishFailed(
                f"publish to {topic!r} denied: {reason.lower()}",
                hint=f"{self.delivered} messages before it were delivered" if self.delivered else "",
            )
        if self._client.given_up and self._client.failure is not None:
            raise self._client.failure
        if not self._first_loss:
            self._first_loss = f"the first on topic {topic!r}: {receipt.reason}"
            self._loss_hint = shunned_hint(topic)

    def _prove(self, timeout: float) -> None:
        """Prove that the broker has read what went at QoS 0, by a round trip after it.

        A broker that closes the connection on a publish it denies (MQTT 5, 4.13; MQTT 3.1.1, 3.3.5) does so
        before it answers.
        """
        try:
            self._client.round_trip(timeout)
        except MqttkitError as error:
            raise PublishFailed(f"not known to be delivered: {error}", hint="Use -q 1 to learn why") from error

    def _tell_of_properties(self) -> None:
        if not self._told_of_properties:
            self._told_of_properties = True
            log.warning("the connection is MQTT 3.1.1, which has no properties: they are left out")
