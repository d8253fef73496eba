"""Iterate over the messages of subscriptions: client -> bounded queue -> the caller's thread.

    with Subscriber(settings, [Subscription("a/#")]) as subscriber:
        for message in subscriber:
            ...

The network thread only puts batches into the queue. If the reader is slower than the broker, the queue fills, the
client stops reading, and TCP slows the broker down: nothing is dropped here and memory stays bounded.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from types import TracebackType

from mqttkit.client import ConnectionState, MqttClient
from mqttkit.client.control import hold_reading, round_trip
from mqttkit.client.message_queue import NO_LIMIT, MessageBatch, MessageQueue
from mqttkit.errors import BrokerUnreachable, TimedOut
from mqttkit.messages import Message, Subscription, Will
from mqttkit.settings import MqttSettings
from mqttkit.topics import check_topic_filter, matches

MAX_CACHED_TOPICS = 4096
"""Topic names for which the result of the exclusions is remembered, each of at most MAX_CACHED_LENGTH characters."""
MAX_CACHED_LENGTH = 512
MAX_QOS = 2
SUBACK_SECONDS = 10.0
"""How long to wait for the SUBACK without a time limit."""
QUIET_ROUNDS = 2
"""Round trips in a row without a retained message that end `retained_only`: see `Subscriber._await_retained`."""
ROUND_TRIP_SECONDS = 3600.0
"""A round trip waits behind everything that the reader has not read yet."""


@dataclass(frozen=True, kw_only=True)
class ReadOptions:
    """Which messages a subscriber yields, and when it ends."""

    count: int | None = None
    """End after this many messages."""
    seconds: float | None = None
    """Raise TimedOut after this many seconds."""
    retained_only: bool = False
    """Yield only retained messages, and end once the broker has sent them all."""
    skip_retained: bool = False
    """Leave out retained messages."""
    exclude: tuple[str, ...] = ()
    """Leave out messages whose topic name matches one of these topic filters."""


EVERYTHING = ReadOptions()


class Subscriber:
    """A client with subscriptions that you read by iteration. Entering its context connects and subscribes.

    Entering raises BrokerUnreachable, ConnectionRefused or SubscriptionDenied. Only one thread may read. Any thread
    and any signal handler may call `stop`.
    """

    def __init__(
        self,
        settings: MqttSettings,
        subscriptions: Sequence[Subscription],
        *,
        will: Will | None = None,
        retry: bool = True,
        manual_ack: bool = False,
        bounded: bool = True,
        lower_qos: bool = False,
        seconds: float | None = None,
    ) -> None:
        """Raise TopicError if a filter is malformed.

        `bounded` False lets any number of messages wait for the reader. `lower_qos` requests at most the QoS that the
        broker has. After `seconds` from entering, connecting, subscribing and reading raise TimedOut.
        """
        for subscription in subscriptions:
            check_topic_filter(subscription.topic_filter)
        self.queue = MessageQueue(self._hold, **({} if bounded else {"messages": NO_LIMIT, "size": NO_LIMIT}))
        self.granted: list[int] = []
        """The QoS that the broker granted for each subscription."""
        self.stopped: str | None = None
        """The reason passed to `stop`; None until it is called."""
        self._subscriptions = subscriptions
        self._manual_ack = manual_ack
        self._lower_qos = lower_qos
        self._seconds = seconds
        self._deadline: float | None = None
        self.on_state: Callable[[ConnectionState, str], None] | None = None
        """Gets each change of the connection and its reason, in the network thread. Set it before entering."""
        self.client = MqttClient(
            settings,
            will=will,
            on_messages=self.queue.put,
            on_state=self._follow_state,
            manual_ack=manual_ack,
            retry=retry,
        )
        self.client.on_denied = self.queue.end

    def __enter__(self) -> Subscriber:
        if self._seconds is not None:
            self._deadline = time.monotonic() + self._seconds
        try:
            self._connect_and_subscribe()
        except BaseException as error:
            self.close()
            if isinstance(error, BrokerUnreachable) and self._left() == 0:
                raise TimedOut(f"timed out after {self._seconds:g} s: {error}") from error
            raise
        return self

    def _connect_and_subscribe(self) -> None:
        self.client.connect(timeout=self._left())
        highest = self.client.broker_limits.max_qos if self._lower_qos else MAX_QOS
        wanted = [replace(each, qos=min(each.qos, highest)) for each in self._subscriptions]
        left = self._left()
        self.granted = self.client.subscribe(*wanted, timeout=SUBACK_SECONDS if left is None else left)

    def _left(self) -> float | None:
        """Return the seconds left; None without a time limit."""
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __iter__(self) -> Iterator[Message]:
        for batch in self.batches():
            yield from batch.messages

    def batches(self, options: ReadOptions = EVERYTHING) -> Iterator[MessageBatch]:
        """Yield batches until `options` are met or `stop` is called.

        With `manual_ack` a batch is acknowledged when the next one is requested. Raises TimedOut; BrokerUnreachable or
        ConnectionRefused if the client gives up the connection; and SubscriptionDenied if the broker denies after a
        reconnect what it granted before.
        """
        chosen = message_filter(options)
        left = options.count
        deadline = self._deadline if options.seconds is None else time.monotonic() + options.seconds
        if options.retained_only:
            threading.Thread(target=self._await_retained, name="mqttkit-retained", daemon=True).start()
        while (left is None or left > 0) and (batch := self._next(deadline)):
            messages = chosen(batch.messages)[:left]
            if messages:
                yield MessageBatch(messages, batch.received_at)
            if left is not None:
                left -= len(messages)
            if self._manual_ack:
                self._acknowledge(batch.messages, messages[-1] if left == 0 else None)

    @property
    def must_flush(self) -> bool:
        """True if output should be flushed now: no other batch waits, or this one is about to be acknowledged."""
        return self._manual_ack or self.queue.empty

    def stop(self, reason: str = "stopped") -> None:
        """End the iteration."""
        self.stopped = self.stopped or reason
        self.queue.wake()

    def close(self) -> None:
        """Disconnect."""
        self.client.close(flush=0.0)

    def _acknowledge(self, messages: Sequence[Message], last: Message | None) -> None:
        """Acknowledge the messages up to `last`: later ones stay with the broker for the next connection."""
        for message in messages:
            if message.qos:
                self.client.ack(message)
            if message is last:
                return

    def _next(self, deadline: float | None) -> MessageBatch | None:
        """Return the next batch, or None at the end of the iteration."""
        while self.stopped is None:
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                raise TimedOut("the time limit expired")
            batch = self.queue.get(left)
            if batch is not None:
                return batch
            if self.queue.ended and self.queue.empty:
                if self.queue.error is not None:
                    raise self.queue.error
                return None
        return None

    def _hold(self, level: int) -> None:
        hold_reading(self.client, level)

    def _await_retained(self) -> None:
        """End the iteration once the broker has sent every retained message.

        A broker answers the packets of a client in order, so the retained messages that our SUBSCRIBE requested arrive
        before the answer to a later round trip. At QoS 1 and 2 some of them wait for the send window: each of our
        acknowledgements lets more of them out, and it is sent before the next round trip. A QoS 2 message takes two
        round trips.
        """
        quiet = 0
        try:
            while quiet < QUIET_ROUNDS and self.stopped is None:
                before = self.queue.retained
                round_trip(self.client, ROUND_TRIP_SECONDS)
                quiet = quiet + 1 if self.queue.retained == before else 0
        except Exception as error:  # noqa: BLE001  # the reader raises it; otherwise it would wait indefinitely
            self.queue.end(error)
        self.queue.end()

    def _follow_state(self, state: ConnectionState, reason: str) -> None:
        """End the iteration when the client closes; runs in the network thread or in the thread that closes."""
        if self.on_state is not None:
            self.on_state(state, reason)
        if state is ConnectionState.CLOSED:
            failure = self.client.failure or BrokerUnreachable("", "mqtt", reason)
            self.queue.end(failure if self.client.given_up else None)


def message_filter(options: ReadOptions) -> Callable[[Sequence[Message]], Sequence[Message]]:
    """Return a function that picks the messages of a batch that `options` ask for."""
    tests: list[Callable[[Message], bool]] = []
    if options.retained_only:
        tests.append(lambda message: message.retain)
    if options.skip_retained:
        tests.append(lambda message: not message.retain)
    if options.exclude:
        tests.append(_not_matching(options.exclude))
    if not tests:
        return lambda messages: messages
    return lambda messages: [message for message in messages if all(test(message) for test in tests)]


def _not_matching(topic_filters: tuple[str, ...]) -> Callable[[Message], bool]:
    known: dict[str, bool] = {}

    def test(message: Message) -> bool:
        passes = known.get(message.topic)
        if passes is None:
            passes = not any(matches(topic_filter, message.topic) for topic_filter in topic_filters)
            if len(message.topic) <= MAX_CACHED_LENGTH:
                if len(known) >= MAX_CACHED_TOPICS:
                    known.clear()
                known[message.topic] = passes
        return passes

    return test
