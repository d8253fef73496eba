"""From a broker into a tree: the client, its subscriptions, and the broker's own statistics."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from types import TracebackType

from mqttkit.addresses import show_address
from mqttkit.broker.statistics import SYS, TOPICS, Statistics, parse
from mqttkit.client import ConnectionState, MqttClient
from mqttkit.errors import SubscriptionDenied
from mqttkit.live.tree import TopicTree
from mqttkit.messages import Message, Subscription
from mqttkit.settings import MqttSettings
from mqttkit.topics import matches

PAUSE_SECONDS = 0.01
"""Pause after a small batch of QoS 0, so that the next one is larger: a view draws ten times a second anyway.

A busy broker writes each message separately, and a thread that wakes up for each of them takes up to twice as much CPU:
docs/reference/top.md has the figures. What arrives meanwhile waits in the kernel's buffer; the broker is not slowed.
"""
SMALL_BATCH, SMALL_BYTES = 100, 16 * 1024
"""Messages of a batch, and bytes of their payloads, after which there is no pause: more wait to be read."""
SYS_FILTER = "$SYS/#"
_SYS_NAMES = frozenset(TOPICS.values())


class Feed:
    """A client that puts what it receives into a tree. Entering its context connects and subscribes.

    Entering raises BrokerUnreachable, ConnectionRefused or SubscriptionDenied. Any thread may call the methods.
    """

    def __init__(
        self,
        settings: MqttSettings,
        topic_filters: Sequence[str],
        tree: TopicTree,
        *,
        qos: int = 0,
        on_messages: Callable[[list[Message], float], object] | None = None,
    ) -> None:
        """Raise TopicError if a filter is malformed.

        The network thread calls `on_messages` with each batch and its time, once the tree has it and still holding
        the tree's lock.
        """
        self.settings = settings
        self.topic_filters = tuple(topic_filters)
        self.tree = tree
        self.changed = threading.Event()
        """Set by each batch and each change of the connection; the view clears it."""
        self.state, self.reason = ConnectionState.IDLE, ""
        self.since = 0.0
        """When the state last changed, on the monotonic clock."""
        self._subscriptions = [Subscription(each, qos, retain_as_published=True) for each in topic_filters]
        self._sys_in_tree = any(matches(each, SYS + "version") for each in topic_filters)
        self._sys: dict[str, str] = {}
        self._on_messages = on_messages
        self.client = MqttClient(settings, on_messages=self._take, on_state=self._follow_state)

    def __enter__(self) -> Feed:
        try:
            self.client.connect()
            self.client.subscribe(*self._subscriptions)
            if not self._sys_in_tree:
                self._subscribe_sys()
        except BaseException:
            self.client.close(flush=0)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.client.close(flush=1.0 if kind is None else 0.0)

    @property
    def statistics(self) -> Statistics | None:
        """The broker's own statistics; None if it has not sent any to this user."""
        return parse(dict(self._sys)) if self._sys else None

    def knows(self, name: str) -> bool:
        """Return whether the broker has sent this figure of `Statistics`, by its name in `TOPICS`.

        mosquitto sends a figure when it changes, and keeps it for a minute.
        """
        return TOPICS[name] in self._sys

    @property
    def address(self) -> str:
        """Host and port of the broker."""
        return show_address(*self.client.address)

    def _subscribe_sys(self) -> None:
        try:
            self.client.subscribe(Subscription(SYS_FILTER))
        except SubscriptionDenied:  # the header then shows no figures of the broker
            self.client.denied.pop(SYS_FILTER, None)

    def _take(self, messages: list[Message]) -> None:
        """Put a batch into the tree; runs in the network thread."""
        if any(message[0].startswith("$SYS/") for message in messages):
            for message in messages:
                self._remember_sys(message)
            if not self._sys_in_tree:
                messages = [message for message in messages if not message.topic.startswith("$SYS/")]
        now = time.monotonic()
        if self._on_messages is None:
            self.tree.add(messages, now)
        else:
            with self.tree.lock:
                self.tree.add(messages, now)
                self._on_messages(messages, now)
        self.changed.set()
        if messages and _is_small(messages):
            time.sleep(PAUSE_SECONDS)

    def _remember_sys(self, message: Message) -> None:
        name = message.topic.removeprefix(SYS)
        if name in _SYS_NAMES:
            self._sys[name] = message.payload[:100].decode(errors="replace")

    def _follow_state(self, state: ConnectionState, reason: str) -> None:
        self.state, self.reason, self.since = state, reason, time.monotonic()
        self.changed.set()


def _is_small(messages: Sequence[Message]) -> bool:
    """Return whether a batch is small and of QoS 0: QoS 1 and 2 wait for acknowledgements."""
    if len(messages) >= SMALL_BATCH or messages[-1].qos:
        return False
    return sum([len(message[1]) for message in messages]) < SMALL_BYTES
