"""gmqtt: publishes into the transport, and waits for its buffer and for acknowledgements."""

from __future__ import annotations

import asyncio
from typing import Any

from common import TOPIC, Meter, read_task
from gmqtt import Client
from gmqtt.mqtt.constants import MQTTv311

TOGETHER = 1_000
BUFFER = 1 << 20


async def main() -> None:
    """Publish or receive."""
    task, meter = read_task(), Meter()
    client, done, subscribed, left = Client("peer-gmqtt"), asyncio.Event(), asyncio.Event(), task.count

    def receive(*_: Any) -> int:
        nonlocal left
        left -= 1
        if not left:
            done.set()
        return 0

    client.on_message = receive
    client.on_subscribe = lambda *_: subscribed.set()
    await client.connect(task.host, task.port, version=MQTTv311)
    if task.role == "sub":
        client.subscribe(TOPIC, qos=task.qos)
        await subscribed.wait()
        meter.ready()
        await done.wait()
    else:
        meter.ready()
        await publish(client, task.count, task.payload, task.qos)
    meter.report()
    await client.disconnect()


async def publish(client: Any, count: int, payload: bytes, qos: int) -> None:
    """Publish all messages; wait until they are sent or acknowledged."""
    transport = client._connection._transport
    for start in range(0, count, TOGETHER):
        for _ in range(min(TOGETHER, count - start)):
            client.publish(TOPIC, payload, qos=qos)
        if qos:
            await client._persistent_storage.wait_empty()
        while transport.get_write_buffer_size() > BUFFER:
            await asyncio.sleep(0)
    while transport.get_write_buffer_size():
        await asyncio.sleep(0)


asyncio.run(main())
