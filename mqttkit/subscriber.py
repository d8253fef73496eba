"""Messages to an iterator: client -> bounded queue -> the caller's thread.

    with Subscriber(settings, [Subscription("a/#")]) as subscriber:
        for message in subscriber:
            ...

The network thread only puts batches into the queue. Where the reader is slower than the broker the queue fills,
the client stops reading, and TCP slows the broker down: nothing is dropped here and memory stays bounded.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import NamedTuple

from mqttkit.client import ConnectionState, MqttClient
from mqttkit.errors import BrokerUnreachable, MqttkitError, TimedOut
from mqttkit.messages import Message, Subscription, Will
from mqttkit.settings import MqttSettings
from mqttkit.topics import check_topic_filter, matches

MAX_CACHED_TOPICS = 4096
"""Topic names whose fate under the exclusions is remembered."""
QUIET_ROUNDS = 2
"""Round trips without a retained message that end retained_only: see `Subscriber._fence`."""
FENCE_SECONDS = 3600.0
"""A round trip waits behind everything that the reader has not taken yet."""


class Batch(NamedTuple):
    """Messages that came together."""

    messages: Sequence[Message]
    when: int
    """Time of receipt, nanoseconds since 1970-01-01 UTC."""


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Which messages are handed on, and when that ends."""

    count: int | None = None
    """End after so many messages."""
    seconds: float | None = None
    """Raise TimedOut after so many seconds of reading."""
    retained_only: bool = False
    """Only retained messages, and end when the broker has sent them all."""
    skip_retained: bool = False
    """No retained messages."""
    exclude: tuple[str, ...] = ()
    """No messages whose topic name one of these topic filters matches."""


EVERYTHING = Selection()


class Inbox:
    """Batches on their way from the network thread to the reader, bounded in messages and bytes.

    Once a reader has called `get`, `pause(True)` is called where the bounds are reached, and `pause(False)` when
    half of them is free again.
    """

    def __init__(self, max_messages: int, max_bytes: int, pause: Callable[[bool], None]) -> None:
        self.max_messages = max_messages
        self.max_bytes = max_bytes
        self.retained = 0
        """Retained messages that came so far."""
        self._pause = pause
        self._paused = self._read = False
        self._messages = self._bytes = 0
        self._lock = threading.Lock()
        self._batches: queue.SimpleQueue[Batch | None] = queue.SimpleQueue()

    def put(self, messages: list[Message]) -> None:
        """Hand over a batch. Never blocks; only the network thread may call it."""
        self._batches.put(Batch(messages, time.time_ns()))
        self.retained += sum([message.retain for message in messages])
        self._count(len(messages), sum([len(message.payload) for message in messages]))

    def get(self, timeout: float | None = None) -> Batch | None:
        """Return the next batch, or None: `timeout` seconds have passed or somebody called `wake`."""
        self._read = True
        try:
            batch = self._batches.get(timeout=timeout)
        except queue.Empty:
            return None
        if batch is not None:
            self._count(-len(batch.messages), -sum([len(message.payload) for message in batch.messages]))
        return batch

    @property
    def empty(self) -> bool:
        """True where no message waits."""
        return self._batches.empty()

    def wake(self) -> None:
        """Make `get` return None once. Safe in a signal handler."""
        self._batches.put(None)

    def _count(self, messages: int, size: int) -> None:
        with self._lock:
            self._messages += messages
            self._bytes += size
            bound = 2 if self._paused else 1
            full = self._messages * bound >= self.max_messages or self._bytes * bound >= self.max_bytes
            if full != self._paused and self._read:
                self._paused = full
                self._pause(full)


class Subscriber:
    """A client with subscriptions, read by iteration. A context manager: entering connects and subscribes.

    Entering raises BrokerUnreachable, ConnectionRefused or SubscriptionDenied. Only one thread may read;
    `stop` may be called from any thread and from a signal handler.
    """

    def __init__(
        self,
        settings: MqttSettings,
        subscriptions: Sequence[Subscription],
        *,
        will: Will | None = None,
        retry: bool = True,
        manual_ack: bool = False,
        bounds: tuple[int, int] = (100_000, 64 * 1024 * 1024),
    ) -> None:
        """Raise TopicError for a malformed filter. `bounds` are the messages, and their bytes, that may wait."""
        for subscription in subscriptions:
            check_topic_filter(subscription.topic_filter)
        self.inbox = Inbox(*bounds, pause=self._pause)
        self.granted: list[int] = []
        """QoS granted for each subscription."""
        self.stopped: str | None = None
        """The reason given to `stop`."""
        self._subscriptions = subscriptions
        self._manual_ack = manual_ack
        self._complete = False
        self._failure: Exception | None = None
        self.client = MqttClient(
            settings,
            will=will,
            on_messages=self.inbox.put,
            on_state=self._note_state,
            manual_ack=manual_ack,
            retry=retry,
        )
        self.client.on_denied = self._fail

    def __enter__(self) -> Subscriber:
        try:
            self.client.connect()
            self.granted = self.client.subscribe(*self._subscriptions)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __iter__(self) -> Iterator[Message]:
        for batch in self.batches():
            yield from batch.messages

    def batches(self, selection: Selection = EVERYTHING) -> Iterator[Batch]:
        """Yield batches until the selection is complete or `stop` is called.

        With `manual_ack` a batch is acknowledged when the next one is asked for.
        Raises TimedOut, BrokerUnreachable or ConnectionRefused where the connection ended for good, and
        SubscriptionDenied where the broker denies after a reconnect what it granted before.
        """
        chosen = select(selection)
        left = selection.count
        deadline = None if selection.seconds is None else time.monotonic() + selection.seconds
        if selection.retained_only:
            threading.Thread(target=self._fence, name="mqttkit-fence", daemon=True).start()
        while (left is None or left > 0) and (batch := self._next(deadline)):
            messages = chosen(batch.messages)[:left]
            if messages:
                yield Batch(messages, batch.when)
            if left is not None:
                left -= len(messages)
            if self._manual_ack:
                self._acknowledge(batch.messages, messages[-1] if left == 0 else None)

    @property
    def must_flush(self) -> bool:
        """True where output should be flushed now: no other batch waits, or this one is about to be acknowledged."""
        return self._manual_ack or self.inbox.empty

    def stop(self, reason: str = "stopped") -> None:
        """End the iteration."""
        self.stopped = self.stopped or reason
        self.inbox.wake()

    def close(self) -> None:
        """Disconnect."""
        self.client.close(flush=0.0)

    def _acknowledge(self, messages: Sequence[Message], last: Message | None) -> None:
        """Acknowledge the messages up to `last`: those behind it stay with the broker for the next connection."""
        for message in messages:
            if message.qos:
                self.client.ack(message)
            if message is last:
                return

    def _next(self, deadline: float | None) -> Batch | None:
        """Return the next batch; None where the iteration ends."""
        while self.stopped is None:
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                raise TimedOut("the time given ran out")
            complete = self._complete or self._failure is not None
            if complete and self.inbox.empty:
                if self._failure is not None:
                    raise self._failure
                return None
            batch = self.inbox.get(left)
            if batch is not None:
                return batch
        return None

    def _pause(self, paused: bool) -> None:
        self.client.pause_reading(paused)

    def _fence(self) -> None:
        """End the iteration when the broker has sent every retained message.

        Brokers answer a client's packets in order, so what our SUBSCRIBE set off comes before the answer of a round
        trip behind it. At QoS 1 and 2 the rest of it waits behind the send window: each of our acknowledgements,
        sent before the next round trip, lets more of it out. A QoS 2 message takes two rounds to come out whole.
        """
        quiet = 0
        try:
            while quiet < QUIET_ROUNDS and self.stopped is None:
                before = self.inbox.retained
                self.client.round_trip(FENCE_SECONDS)
                quiet = quiet + 1 if self.inbox.retained == before else 0
        except Exception as error:  # noqa: BLE001  # raised in the reader, which would wait for ever
            self._failure = error
        self._complete = True
        self.inbox.wake()

    def _note_state(self, state: ConnectionState, reason: str) -> None:
        """Take note of the end of a connection that will not come back; runs in the network thread."""
        if state is ConnectionState.CLOSED and self.client.given_up:
            self._fail(self.client.failure or BrokerUnreachable("", "mqtt", reason))

    def _fail(self, error: MqttkitError) -> None:
        """Raise `error` in the reader, behind the messages that came before it."""
        self._failure = error
        self.inbox.wake()


def select(selection: Selection) -> Callable[[Sequence[Message]], Sequence[Message]]:
    """Return what picks the messages of a batch that are handed on."""
    tests: list[Callable[[Message], bool]] = []
    if selection.retained_only:
        tests.append(lambda message: message.retain)
    if selection.skip_retained:
        tests.append(lambda message: not message.retain)
    if selection.exclude:
        tests.append(_not_matching(selection.exclude))
    if not tests:
        return lambda messages: messages
    return lambda messages: [message for message in messages if all(test(message) for test in tests)]


def _not_matching(topic_filters: tuple[str, ...]) -> Callable[[Message], bool]:
    known: dict[str, bool] = {}

    def test(message: Message) -> bool:
        passes = known.get(message.topic)
        if passes is None:
            if len(known) >= MAX_CACHED_TOPICS:
                known.clear()
            passes = not any(matches(topic_filter, message.topic) for topic_filter in topic_filters)
            known[message.topic] = passes
        return passes

    return test
