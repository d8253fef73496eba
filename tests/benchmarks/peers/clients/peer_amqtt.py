"""amqtt: awaits a hundred publishes together."""

from __future__ import annotations

import asyncio
import logging

from amqtt.client import MQTTClient
from common import TOPIC, Meter, read_task

TOGETHER = 100


async def main() -> None:
    """Publish or receive."""
    task, meter = read_task(), Meter()
    logging.disable(logging.CRITICAL)
    client = MQTTClient(config={"auto_reconnect": False})
    await client.connect(f"mqtt://{task.host}:{task.port}/")
    if task.role == "sub":
        await client.subscribe([(TOPIC, task.qos)])
        meter.ready()
        for _ in range(task.count):
            await client.deliver_message()
    else:
        meter.ready()
        for start in range(0, task.count, TOGETHER):
            number = min(TOGETHER, task.count - start)
            await asyncio.gather(*(client.publish(TOPIC, task.payload, task.qos) for _ in range(number)))
    meter.report()
    await client.disconnect()


asyncio.run(main())
