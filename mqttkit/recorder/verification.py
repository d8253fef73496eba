"""Prove that what a subscriber receives equals what was played:

order for each topic, payload, QoS, retain, properties.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from types import TracebackType

from mqttkit.client import MqttClient
from mqttkit.messages import Message, Properties, Subscription
from mqttkit.settings import MqttSettings

QUIET_SECONDS = 5.0
"""The end of the wait for messages that have not arrived: nothing has come for so long."""
FILTERS_AT_ONCE = 100
"""Topic filters in one SUBSCRIBE."""

Stream = tuple[str, int]
"""Topic name and QoS: a broker keeps the order of these (MQTT 5, 4.6)."""
Fingerprint = tuple[bytes, bool, Properties | None]


@dataclass
class Differences:
    """How what arrived differs from what was played."""

    equal: int = 0
    missing: int = 0
    """Played and not received."""
    changed: int = 0
    """Received with another payload, retain flag or properties."""
    unexpected: int = 0
    """Received but not played with this QoS, or received twice."""

    def __bool__(self) -> bool:
        return bool(self.missing or self.changed or self.unexpected)

    def text(self) -> str:
        """Return the counts as words."""
        return ", ".join(f"{count} {name}" for name, count in asdict(self).items())


class Verification:
    """A subscriber that compares. A context manager: entering connects and subscribes to the topics.

    `expect` is for the thread that plays. Memory is bounded by what was played and has not arrived.
    """

    def __init__(self, settings: MqttSettings, topics: Sequence[str]) -> None:
        client = replace(settings.client, client_id=None, clean_session=True, receive_maximum=65_535)
        self._client = MqttClient(replace(settings, client=client), on_messages=self._receive, retry=False)
        self._topics = topics
        self._lock = threading.Lock()
        self._expected: defaultdict[Stream, deque[Fingerprint]] = defaultdict(deque)
        self._waiting = 0
        self._done = threading.Event()
        self._arrived_at = 0.0
        self._retain_is_kept = True
        self._found = Differences()

    def __enter__(self) -> Verification:
        try:
            self._client.connect()
            self._retain_is_kept = self._client.protocol_version == 5
            for start in range(0, len(self._topics), FILTERS_AT_ONCE):
                self._client.subscribe(
                    *(
                        Subscription(topic, 2, retain_as_published=True, retain_handling=2)
                        for topic in self._topics[start : start + FILTERS_AT_ONCE]
                    )
                )
        except BaseException:
            self._client.close(flush=0.0)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close(flush=0.0)

    def expect(self, messages: Sequence[Message]) -> None:
        """Say that these messages are about to be published."""
        with self._lock:
            for message in messages:
                self._expected[message.topic, message.qos].append(self._fingerprint(message))
            self._waiting += len(messages)
            self._done.clear()

    def finish(self) -> Differences:
        """Wait until everything has arrived, or until nothing more comes, and return what differs."""
        self._arrived_at = time.monotonic()
        while self._waiting and (left := self._arrived_at + QUIET_SECONDS - time.monotonic()) > 0:
            self._done.wait(left)
        with self._lock:
            self._found.missing += self._waiting
            self._waiting = 0
            return self._found

    def _receive(self, messages: list[Message]) -> None:
        with self._lock:
            for message in messages:
                self._compare(message)
            self._arrived_at = time.monotonic()
            if self._waiting == 0:
                self._done.set()

    def _compare(self, message: Message) -> None:
        if not self._retain_is_kept and message.retain:
            return  # MQTT 3.1.1 sets the flag only on what was retained before (3.3.1.3)
        expected = self._expected.get((message.topic, message.qos))
        if not expected:
            self._found.unexpected += 1
            return
        found = self._fingerprint(message)
        if found in expected:
            while expected[0] != found:
                expected.popleft()
                self._waiting -= 1
                self._found.missing += 1
            self._found.equal += 1
        else:
            self._found.changed += 1
        expected.popleft()
        self._waiting -= 1
        if not expected:
            del self._expected[message.topic, message.qos]

    def _fingerprint(self, message: Message) -> Fingerprint:
        """Return what must be equal. A broker counts the expiry interval down and adds subscription identifiers."""
        properties = message.properties
        if properties is not None:
            properties = replace(
                properties, message_expiry_interval=None, subscription_identifiers=(), topic_alias=None
            )
            if properties == Properties() or not self._retain_is_kept:
                properties = None
        retain = message.retain if self._retain_is_kept else False
        return message.payload, retain, properties
