"""The client for asyncio: the threaded client underneath, with one loop wake-up for each batch of messages.

Example::

    async with mqttkit.aio.connect("mqtt://localhost") as client:
        await client.subscribe("sensor/#", qos=1)
        await client.publish("sensor/1", "21.5", qos=1)
        async for message in client.messages(timeout=10):
            print(message.topic, message.text)
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Generator, Iterable
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any

from mqttkit.client import BlockReceipt, ClientStats, ConnectionState, MqttClient, Receipt
from mqttkit.client.connecting import ConnectOptions, split_options
from mqttkit.client.control import hold_reading, on_resolved
from mqttkit.client.message_queue import MessageQueue
from mqttkit.messages import Message, Outcome, Properties, Subscription
from mqttkit.settings import MqttSettings, Settings

if TYPE_CHECKING:
    from typing_extensions import Unpack


def connect(broker: str | MqttSettings | Settings, **options: Unpack[ConnectOptions]) -> AsyncClient:
    """Return an asyncio client of `broker`; `async with` connects it. Takes what `mqttkit.connect` takes."""
    settings, others = split_options(broker, options)
    return AsyncClient(settings, **others)


class AsyncClient:
    """A client for one event loop. Call its methods only from that loop's thread.

    The network runs in the threaded client's own thread. `subscribe`, `unsubscribe` and the begin and end of the
    `async with` block wait in a worker thread, so the loop never blocks.
    """

    def __init__(self, settings: MqttSettings, **options: Any) -> None:
        self._client = MqttClient(settings, on_messages=self._receive, on_state=self._note_state, **options)
        self._queue = MessageQueue(partial(hold_reading, self._client))
        self._receipts = _PendingReceipts()
        self._arrived = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_waking = False

    async def __aenter__(self) -> AsyncClient:
        """Connect; raise BrokerUnreachable or ConnectionRefused."""
        self._loop = asyncio.get_running_loop()
        on_resolved(self._client, self._wake_for_receipts)
        try:
            await asyncio.to_thread(self._client.connect)
        except BaseException:
            await asyncio.to_thread(self._client.close, flush=0.0)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close(flush=5.0 if kind is None else 0.0)

    async def close(self, *, flush: float = 5.0) -> None:
        """Wait up to `flush` seconds for pending publishes, then disconnect. `messages` ends."""
        await asyncio.to_thread(self._client.close, flush=flush)
        self._receipts.settle()

    @property
    def stats(self) -> ClientStats:
        """A snapshot of the counters."""
        return self._client.stats

    def publish(
        self,
        topic: str,
        payload: bytes | str = b"",
        *,
        qos: int = 0,
        retain: bool = False,
        properties: Properties | None = None,
    ) -> AsyncReceipt:
        """Publish a message and return a receipt to await. Never blocks, and sends without an await too.

        If the client is not connected or its queue is full, it drops the message, and the receipt raises PublishLost:
        await some receipts to stay below `LimitSettings.max_queued_messages`.
        Raises TopicError if the topic name is malformed and TypeError if the payload is not bytes or text.
        """
        receipt = self._client.publish(topic, payload, qos=qos, retain=retain, properties=properties)
        return AsyncReceipt(receipt, self._receipts)

    def publish_many(
        self,
        topic: str,
        payloads: Iterable[bytes | str],
        *,
        qos: int = 0,
        retain: bool = False,
        properties: Properties | None = None,
    ) -> AsyncBlockReceipt:
        """Publish a message for each payload, and return one receipt for all of them. Otherwise as `publish`."""
        block = self._client.publish_many(topic, payloads, qos=qos, retain=retain, properties=properties)
        return AsyncBlockReceipt(block, self._receipts)

    async def subscribe(self, *filters: Subscription | str, qos: int = 0, timeout: float = 10.0) -> list[int]:
        """Subscribe, and return the QoS granted for each filter. Raises what `Client.subscribe` raises."""
        return await asyncio.to_thread(self._client.subscribe, *filters, qos=qos, timeout=timeout)

    async def unsubscribe(self, *topic_filters: str, timeout: float = 10.0) -> None:
        """Unsubscribe, and wait up to `timeout` seconds for the broker's answer."""
        await asyncio.to_thread(self._client.unsubscribe, *topic_filters, timeout=timeout)

    async def messages(self, timeout: float | None = None) -> AsyncIterator[Message]:
        """Iterate over the messages received, in order. One task at a time may iterate.

        Ends when the client is closed, or when no message arrives for `timeout` seconds; None waits indefinitely.
        If the loop is slower than the broker, the client stops reading until there is room again.
        Raises the failure if the client gives up the connection.
        """
        while (batch := self._queue.get(0)) is not None or await self._wait_for_messages(timeout):
            for message in batch.messages if batch is not None else ():
                yield message
            await asyncio.sleep(0)  # a fast broker must not keep other tasks from running
        if self._queue.error is not None:
            raise self._queue.error

    def ack(self, message: Message) -> bool:
        """Acknowledge a message received with `manual_ack`; return False if its connection has ended."""
        return self._client.ack(message)

    async def _wait_for_messages(self, timeout: float | None) -> bool:
        """Wait until the queue is not empty; return False after `timeout` seconds or at its end."""
        self._arrived.clear()
        if not self._queue.empty:
            return True
        if self._queue.ended:
            return False
        try:
            await (self._arrived.wait() if timeout is None else asyncio.wait_for(self._arrived.wait(), timeout))
        except asyncio.TimeoutError:
            return False
        return True

    # --- in the network thread ----------------------------------------------------------------------------

    def _receive(self, messages: list[Message]) -> None:
        self._queue.put(messages)
        self._wake()

    def _note_state(self, state: ConnectionState, _reason: str) -> None:
        if state is ConnectionState.CLOSED:
            self._queue.end(self._client.failure if self._client.given_up else None)
            self._wake()

    def _wake_for_receipts(self) -> None:
        if self._receipts.has_waiters:
            self._wake()

    def _wake(self) -> None:
        """Run `_awake` in the loop, once for everything that happens until then."""
        if self._loop is None or self._is_waking:
            return
        self._is_waking = True
        with contextlib.suppress(RuntimeError):  # the loop is closed, so nothing waits
            self._loop.call_soon_threadsafe(self._awake)

    def _awake(self) -> None:
        self._is_waking = False
        self._arrived.set()
        self._receipts.settle()


class AsyncReceipt:
    """The outcome of one publish: `await` returns it, or raises PublishDenied or PublishLost."""

    __slots__ = ("_pending", "_receipt")

    def __init__(self, receipt: Receipt | BlockReceipt, pending: _PendingReceipts) -> None:
        self._receipt: Receipt | BlockReceipt = receipt
        self._pending = pending

    @property
    def outcome(self) -> Outcome | None:
        """The outcome; None until it is known."""
        return self._receipt.outcome

    def __await__(self) -> Generator[Any, None, Outcome]:
        if not self._receipt.done:
            yield from self._pending.wait(self._receipt).__await__()
        return self._receipt.result(0)


class AsyncBlockReceipt(AsyncReceipt):
    """The outcomes of one `publish_many`: `await` returns when all are known, and raises for the first failure."""

    __slots__ = ("receipt",)

    def __init__(self, receipt: BlockReceipt, pending: _PendingReceipts) -> None:
        super().__init__(receipt, pending)
        self.receipt = receipt
        """Knows the outcome of each message, also while some are unknown."""


class _PendingReceipts:
    """Futures of the receipts that somebody awaits."""

    def __init__(self) -> None:
        self._futures: dict[Receipt | BlockReceipt, list[asyncio.Future[None]]] = {}

    @property
    def has_waiters(self) -> bool:
        """True if somebody awaits a receipt. Any thread."""
        return bool(self._futures)

    async def wait(self, receipt: Receipt | BlockReceipt) -> None:
        """Wait until the outcome is known."""
        future = asyncio.get_running_loop().create_future()
        waiting = self._futures.setdefault(receipt, [])
        waiting.append(future)
        try:
            if not receipt.done:  # the network thread looks at `has_waiters` only after it has set the outcome
                await future
        finally:
            waiting.remove(future)
            if not waiting:
                self._futures.pop(receipt, None)

    def settle(self) -> None:
        """Wake whoever awaits a receipt whose outcome is known."""
        for receipt, futures in list(self._futures.items()):
            if receipt.done:
                for future in futures:
                    if not future.done():
                        future.set_result(None)
