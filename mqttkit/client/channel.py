"""How a client publishes: through the wire's outbox, or through paho alone where MQTTKIT_PLAIN_PAHO says so."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from paho.mqtt.enums import MQTTErrorCode, MQTTProtocolVersion

from mqttkit.client.receipts import PlainOutbox
from mqttkit.messages import Message, Properties
from mqttkit.settings import LimitSettings
from mqttkit.topics import check_topic_name
from mqttkit.wire import PLAIN, Outbox, Receipt, encode_properties
from mqttkit.wire.properties import to_paho

if TYPE_CHECKING:
    from mqttkit.client.connector import Connector

_checked_name = functools.lru_cache(maxsize=4_096)(check_topic_name)


@functools.lru_cache(maxsize=4_096)
def _encoded_name(topic: str) -> bytes:
    """Return a checked topic name as it goes on the wire, its length first (MQTT 5, 1.5.4)."""
    encoded = check_topic_name(topic).encode()
    return len(encoded).to_bytes(2, "big") + encoded


class BatchedChannel(Outbox):
    """Publishes through the batched socket."""

    def connect_to(
        self, paho: Connector, on_messages: Callable[[list[Message]], None], on_message: Callable[..., None]
    ) -> None:
        """Publish through `paho`, and have it call `on_messages` in its thread."""
        del on_message
        self._wake = paho.wake
        self.pause_reading = paho.pause_reading
        paho.attach(self, on_messages)

    def publish(
        self, topic: str, payload: bytes, qos: int, retain: bool, properties: Properties | None, wait: float
    ) -> Receipt:
        """Queue a publish; raise TopicError for a malformed topic name."""
        if not 0 <= qos <= 2:
            raise ValueError(f"QoS must be 0, 1 or 2, got {qos!r}")
        section = b"" if properties is None else encode_properties(properties)
        name = _encoded_name(topic)
        receipt = self.put(name, bytes(payload), qos, retain=retain, properties=section, wait=wait)
        self._wake()
        return receipt


class PlainChannel(PlainOutbox):
    """Publishes through paho's own queue, one packet at a time."""

    def __init__(self, limits: LimitSettings) -> None:
        super().__init__(limits)
        self._reading = threading.Event()
        self._reading.set()

    def connect_to(
        self, paho: Connector, on_messages: Callable[[list[Message]], None], on_message: Callable[..., None]
    ) -> None:
        """Publish through `paho`, and have it call `on_message` in its thread."""
        del on_messages
        self._paho = paho
        paho.on_message = functools.partial(self._hold, on_message)
        paho.on_publish = self._published

    def pause_reading(self, paused: bool) -> None:
        """Hold the network thread at the next message, or let it go on: paho alone cannot only stop to read."""
        (self._reading.clear if paused else self._reading.set)()

    def _hold(self, on_message: Callable[..., None], *arguments: object) -> None:
        self._reading.wait()
        on_message(*arguments)

    def _published(self, _client: object, _data: object, mid: int, code: object, _properties: object) -> None:
        value = int(getattr(code, "value", 0))
        self.settle(mid, value, str(code) if value else "")

    def publish(
        self, topic: str, payload: bytes, qos: int, retain: bool, properties: Properties | None, wait: float
    ) -> Receipt:
        """Hand a publish to paho; raise TopicError for a malformed topic name."""
        _checked_name(topic)
        receipt = self.reserve(len(topic) + len(payload), wait)
        if receipt.done:
            return receipt
        sent = None
        if properties is not None and self._paho.protocol == MQTTProtocolVersion.MQTTv5:
            sent = to_paho(properties)
        info = self._paho.publish(topic, payload, qos, retain, sent)
        if info.rc == MQTTErrorCode.MQTT_ERR_SUCCESS:
            self.register(info.mid, qos, receipt)
            return receipt
        full = info.rc == MQTTErrorCode.MQTT_ERR_QUEUE_SIZE
        return self.drop(receipt, "queue full" if full else "not connected")


Channel: type[BatchedChannel] | type[PlainChannel] = PlainChannel if PLAIN else BatchedChannel
