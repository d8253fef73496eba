"""The calls of `MqttClient` that publish."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

from mqttkit.client.packets.encoding import encode_name, encode_payload
from mqttkit.client.packets.properties import encode as encode_properties
from mqttkit.client.sending.block import BlockReceipt
from mqttkit.client.sending.publish_queue import NOT_CONNECTED
from mqttkit.client.sending.receipt import Receipt
from mqttkit.messages import Properties

if TYPE_CHECKING:
    from mqttkit.client.connection import Connection
    from mqttkit.client.network_thread import NetworkThread
    from mqttkit.client.sending.outbox import Outbox


class PublishingClient:
    """The publishing half of `MqttClient`, which sets these attributes."""

    connected: bool
    _outbox: Outbox
    _connection: Connection
    _thread: NetworkThread
    _condition: threading.Condition
    _number: int

    def wait_connected(self, timeout: float) -> bool:
        """Wait up to `timeout` seconds for a CONNACK that accepts."""
        raise NotImplementedError

    def publish(
        self,
        topic: str,
        payload: bytes | str = b"",
        *,
        qos: int = 0,
        retain: bool = False,
        properties: Properties | None = None,
        wait: float = 0.0,
    ) -> Receipt:
        """Publish a message and return its receipt. Text is sent as UTF-8. Any thread may call it.

        Never blocks if `wait` is 0: without a connection, or if the queue is full, the message is dropped and the
        receipt reports it. Otherwise waits up to `wait` seconds for a connection and for room in the queue.
        Raises TopicError if the topic name is malformed and TypeError if the payload is not bytes or text.
        """
        data = payload if type(payload) is bytes else encode_payload(payload)
        if not self.connected and not (wait > 0 and self.wait_connected(wait)):
            return self._outbox.refuse(NOT_CONNECTED, encode_name(topic))
        if (
            not topic.isprintable()
        ):  # quick, and true of nearly every topic that brokers accept, except some with spaces
            self._thread.remember_topic(topic)
        if not 0 <= qos <= 2:
            raise ValueError(f"QoS must be 0, 1 or 2, got {qos!r}")
        section = b"" if properties is None else encode_properties(properties, self._outbox.broker.topic_aliases)
        name = encode_name(topic)
        receipt = self._outbox.put(name, data, qos, retain=retain, properties=section, wait=wait)
        self._connection.wake()
        return receipt

    def publish_many(
        self,
        topic: str,
        payloads: Iterable[bytes | str],
        *,
        qos: int = 0,
        retain: bool = False,
        properties: Properties | None = None,
        wait: float = 0.0,
    ) -> BlockReceipt:
        """Publish a message for each payload, in order, and return one receipt that knows the outcome of each.

        It costs much less than a `publish` for each message. Any thread may call it.
        Never blocks if `wait` is 0: messages without a connection or without room in the queue are dropped, and the
        receipt reports which. Otherwise waits up to `wait` seconds in all for a connection and for room.
        Raises TopicError if the topic name is malformed and TypeError if a payload is not bytes or text.
        """
        if not 0 <= qos <= 2:
            raise ValueError(f"QoS must be 0, 1 or 2, got {qos!r}")
        data = [payload if type(payload) is bytes else encode_payload(payload) for payload in payloads]
        deadline = time.monotonic() + wait
        if wait > 0:
            self.wait_connected(wait)  # the broker's answer to CONNECT says which properties it takes
        section = b"" if properties is None else encode_properties(properties, self._outbox.broker.topic_aliases)
        block = BlockReceipt(self._outbox.condition, encode_name(topic), data, qos, retain, section)
        while block.queued < len(block):
            left, number = max(deadline - time.monotonic(), 0.0), self._number
            if not self.connected and not (left > 0 and self.wait_connected(left)):
                self._outbox.refuse_rest(block, NOT_CONNECTED)
                break
            if not topic.isprintable():
                self._thread.remember_topic(topic)
            cause = self._outbox.put_block(block, left)
            self._connection.wake()
            if cause == NOT_CONNECTED and left > 0:
                self._wait_for_end_of(number, left)
            elif cause:
                self._outbox.refuse_rest(block, cause)
        return block

    def _wait_for_end_of(self, number: int, timeout: float) -> None:
        """Wait until the client knows that connection `number`, which takes nothing more, has ended."""
        with self._condition:
            self._condition.wait_for(lambda: not self.connected or self._number != number, timeout)
