"""The asyncio client against real brokers."""

from __future__ import annotations

import asyncio
import socket
import threading
import uuid
from pathlib import Path

import pytest

from mqttkit import aio
from mqttkit.errors import BrokerUnreachable, PublishDenied, PublishLost, TopicError
from mqttkit.messages import Outcome
from mqttkit.testing.broker import TestBroker
from tests.support.brokers import Mosquitto, free_port, mosquitto
from tests.support.clients import settings_for, wait_until
from tests.support.scripted_broker import ScriptedBroker, scripted_broker

SECONDS = 120.0


def run(scenario: object, seconds: float = SECONDS) -> None:
    """Run a coroutine to its end, within a deadline."""
    asyncio.run(asyncio.wait_for(scenario, seconds))  # type: ignore[arg-type]


async def until_received(client: aio.AsyncClient, count: int) -> None:
    """Wait until the client has received so many messages."""
    while client.stats.received < count:
        await asyncio.sleep(0.01)


def new_topic() -> str:
    """Return a topic of the test's own."""
    return f"aio/{uuid.uuid4().hex}"


@pytest.mark.parametrize("qos", [0, 1, 2])
def test_messages_arrive_in_order_and_receipts_can_be_awaited(shared_broker: TestBroker, qos: int) -> None:
    """Each publish is acknowledged, and each message arrives once."""
    topic = new_topic()

    async def scenario() -> None:
        async with aio.connect(settings_for(shared_broker.port)) as client:
            assert await client.subscribe(topic, qos=qos) == [qos]
            outcomes = await asyncio.gather(*[client.publish(topic, str(number), qos=qos) for number in range(300)])
            assert set(outcomes) == {Outcome.ACKNOWLEDGED if qos else Outcome.SENT}
            await until_received(client, 300)
            received = [message.text async for message in client.messages(timeout=1.0)]
            assert received == [str(number) for number in range(300)]
            assert client.stats.received == 300

    run(scenario())


def test_a_block_can_be_awaited_as_a_whole(shared_broker: TestBroker) -> None:
    """One receipt for all; it knows each message, and raises for the first one not delivered."""
    topic = new_topic()

    async def scenario() -> None:
        async with aio.connect(settings_for(shared_broker.port, max_queued_messages=100)) as client:
            await client.subscribe(topic, qos=1)
            block = client.publish_many(topic, [str(number) for number in range(100)], qos=1)
            assert await block is Outcome.ACKNOWLEDGED
            assert block.receipt.delivered == 100
            await until_received(client, 100)
            received = [message.text async for message in client.messages(timeout=1.0)]
            assert received == [str(number) for number in range(100)]
        with pytest.raises(PublishLost, match="message 1 of 2: not connected"):
            await client.publish_many(topic, [b"x"] * 2, qos=1)

    run(scenario())


def test_a_slow_reader_pauses_the_broker_and_loses_nothing(shared_broker: TestBroker) -> None:
    """The queue is bounded: the client stops reading until the loop has read half of it."""
    topic = new_topic()
    paused: list[bool] = []

    async def scenario() -> None:
        async with (
            aio.connect(settings_for(shared_broker.port)) as client,
            aio.connect(settings_for(shared_broker.port, max_queued_messages=20_000)) as other,
        ):
            client._queue.max_messages = 100
            hold = client._queue._hold
            client._queue._hold = lambda level: (paused.append(level > 0), hold(level))[0]
            await client.subscribe(topic, qos=1)
            reader = client.messages(timeout=60.0)
            first = other.publish(topic, "0", qos=1)
            assert (await anext(reader)).text == "0"
            await asyncio.gather(first, *[other.publish(topic, str(number), qos=1) for number in range(1, 2_000)])
            for number in range(1, 2_000):
                assert (await anext(reader)).text == str(number)

    run(scenario())
    assert True in paused
    assert not paused[-1]


def test_other_tasks_run_while_messages_stream_in(shared_broker: TestBroker) -> None:
    """A reader whose queue is never empty still gives way to the loop after each batch."""
    topic, ticks = new_topic(), 0

    async def scenario() -> None:
        async def tick() -> None:
            nonlocal ticks
            while True:
                await asyncio.sleep(0)
                ticks += 1

        async with aio.connect(settings_for(shared_broker.port)) as client:
            await client.subscribe(topic)
            for number in range(5_000):
                client.publish(topic, str(number))
            reader = client.messages(timeout=60.0)
            await anext(reader)
            ticking = asyncio.create_task(tick())
            for _ in range(4_000):
                await anext(reader)
            ticking.cancel()

    run(scenario())
    assert ticks > 0


def test_iteration_ends_when_the_client_is_closed(shared_broker: TestBroker) -> None:
    """A task that waits for messages without a time limit ends too."""

    async def scenario() -> None:
        client = aio.connect(settings_for(shared_broker.port))
        async with client:
            await client.subscribe(new_topic())

            async def read() -> int:
                return len([message async for message in client.messages()])

            reading = asyncio.create_task(read())
            await asyncio.sleep(0)
            await client.close()
            assert await reading == 0

    run(scenario())


def test_a_denied_publish_raises_when_awaited_and_a_wrong_argument_at_once(tmp_path: Path) -> None:
    """As in the threaded client."""
    acl = tmp_path / "acl"
    acl.write_text("topic readwrite open/#\n")
    acl.chmod(0o600)

    async def scenario(port: int) -> None:
        async with aio.connect(settings_for(port)) as client:
            with pytest.raises(PublishDenied, match="publish to 'closed' denied: not authorized"):
                await client.publish("closed", "x", qos=1)
            with pytest.raises(TopicError):
                client.publish("a/#", "x")
            with pytest.raises(TypeError, match=r"publish json.dumps\(payload\) instead"):
                client.publish("open/a", {"a": 1})  # type: ignore[arg-type]
            assert await client.publish("open/a", "x", qos=1) is Outcome.ACKNOWLEDGED

    with mosquitto(tmp_path / "broker", f"acl_file {acl}") as broker:
        run(scenario(broker.port))


def test_a_publish_without_a_connection_raises_when_awaited(broker: Mosquitto) -> None:
    """The message is dropped, and `await` says why; a pending one is lost with the connection."""

    async def scenario() -> None:
        async with aio.connect(settings_for(broker.port, initial_delay=30.0)) as client:
            await asyncio.to_thread(broker.stop)
            while client._client.connected:
                await asyncio.sleep(0.01)
            with pytest.raises(PublishLost, match="not connected"):
                await client.publish("a", "x", qos=1)

    run(scenario())


def test_a_receipt_that_is_awaited_ends_with_the_client() -> None:
    """A broker that never acknowledges does not keep a task waiting after close."""

    def accept(connection: socket.socket, _connect: bytes) -> bool:
        connection.sendall(b"\x20\x02\x00\x00")
        return True

    async def scenario(port: int) -> None:
        client = aio.connect(settings_for(port, version="311"))
        async with client:
            receipt = client.publish("a", "x", qos=1)

            async def wait() -> Outcome:
                return await receipt

            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(wait(), 0.1)
            assert receipt.outcome is None
            waiting = asyncio.create_task(wait())
            await asyncio.sleep(0)
            await client.close(flush=0.0)
            with pytest.raises(PublishLost, match="closed before it was acknowledged"):
                await waiting

    with scripted_broker(accept) as server:
        run(scenario(server.port))


def test_an_unreachable_broker_raises_and_a_cancelled_connect_ends() -> None:
    """Neither leaves a thread that keeps the program alive."""

    async def refused() -> None:
        async with aio.connect(settings_for(free_port())):
            pytest.fail("connected")

    with pytest.raises(BrokerUnreachable):
        run(refused())

    async def cancelled(silent: ScriptedBroker) -> None:
        async def enter() -> None:
            async with aio.connect(settings_for(silent.port, connect_timeout=30.0)):
                pytest.fail("connected")

        entering = asyncio.create_task(enter())
        while not silent.connects:
            await asyncio.sleep(0.01)
        entering.cancel()
        with pytest.raises(asyncio.CancelledError):
            await entering

    with scripted_broker(lambda _connection, _connect: True) as silent:
        run(cancelled(silent))
    wait_until(lambda: not [thread for thread in threading.enumerate() if "paho" in thread.name])
