"""Publish a request and wait for its answers.

The requester subscribes to its response topic before it publishes. On MQTT 5 the request carries the response topic
and correlation data (4.10), and only messages with that correlation data are answers. MQTT 3.1.1 has neither: the
caller names a response topic that the responder knows, and every message on it is an answer.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from mqttkit.client import MqttClient
from mqttkit.errors import TimedOut, UsageError
from mqttkit.messages import Message, Properties, Subscription
from mqttkit.settings import MqttSettings
from mqttkit.topics import check_topic_name

NO_MATCHING_SUBSCRIBERS = 0x10
"""Reason code of a PUBACK: no one has subscribed to the topic (MQTT 5, 3.4.2.1)."""
CORRELATION_BYTES = 16


@dataclass(frozen=True, kw_only=True)
class RequestOptions:
    """How to ask, and how long to wait."""

    qos: int = 1
    """QoS of the request and of the subscription to the answers."""
    seconds: float = 10.0
    """Raise TimedOut after this time."""
    count: int = 1
    """Answers to wait for: several responders may answer."""
    response_topic: str | None = None
    """Topic of the answers. MQTT 5: a private one by default. Required on MQTT 3.1.1."""
    correlation_data: bytes | None = None
    """MQTT 5: what ties an answer to the request; 16 random bytes by default."""
    properties: Properties = field(default_factory=Properties)
    """MQTT 5: further properties of the request."""


class Requester:
    """Sends requests over one connection. A context manager: entering connects. One thread.

    Entering raises BrokerUnreachable or ConnectionRefused.
    """

    def __init__(self, settings: MqttSettings) -> None:
        self._client = MqttClient(settings, retry=False)
        self.ignored = 0
        """Messages on response topics that were not answers to the request: other correlation data."""
        self.heard = True
        """False if the broker reports that no client has subscribed to the request's topic (MQTT 5 only)."""

    def __enter__(self) -> Requester:
        try:
            self._client.connect()
        except BaseException:
            self._client.close(flush=0.0)
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close(flush=0.0)

    def request(self, topic: str, payload: bytes, options: RequestOptions) -> Iterator[Message]:
        """Publish the request, and yield its answers as they arrive.

        Raises TimedOut if fewer than `count` answers arrive in time, PublishDenied, SubscriptionDenied, and UsageError
        for MQTT 3.1.1 without a response topic.
        """
        deadline = time.monotonic() + options.seconds
        with_properties = self._client.protocol_version == 5
        if not with_properties and options.response_topic is None:
            raise UsageError(
                "the connection uses MQTT 3.1.1, which carries no response topic in a message",
                hint="Name the topic on which the responder answers: --response-topic TOPIC",
            )
        answers = check_topic_name(options.response_topic or f"mqttkit/response/{secrets.token_hex(8)}")
        correlation = options.correlation_data or secrets.token_bytes(CORRELATION_BYTES)
        self._client.subscribe(
            Subscription(answers, options.qos, retain_handling=2), timeout=max(deadline - time.monotonic(), 0.1)
        )
        properties = replace(options.properties, response_topic=answers, correlation_data=correlation)
        receipt = self._client.publish(
            topic, payload, qos=options.qos, properties=properties if with_properties else None
        )
        if options.qos:
            receipt.result(max(deadline - time.monotonic(), 0.1))
            self.heard = receipt.code != NO_MATCHING_SUBSCRIBERS
        yield from self._answers(topic, options.count, correlation if with_properties else None, deadline)
        self._client.unsubscribe(answers)

    def _answers(self, topic: str, count: int, correlation: bytes | None, deadline: float) -> Iterator[Message]:
        found = 0
        while (left := deadline - time.monotonic()) > 0:
            for message in self._client.messages(left):
                if self._is_answer(message, correlation):
                    found += 1
                    yield message
                if found == count:
                    return
                if time.monotonic() > deadline:
                    break
        raise TimedOut(
            f"{found} of {count} answers to the request on {topic!r} arrived in time",
            hint="" if self.heard else "No client has subscribed to that topic",
        )

    def _is_answer(self, message: Message, correlation: bytes | None) -> bool:
        """Return whether a message answers the request; without correlation data every new one does."""
        if correlation is None:
            return not message.retain
        if message.properties is not None and message.properties.correlation_data == correlation:
            return True
        self.ignored += 1
        return False
