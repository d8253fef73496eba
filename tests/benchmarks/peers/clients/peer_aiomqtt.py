"""aiomqtt: awaits each publish; at QoS 1 a hundred together."""

from __future__ import annotations

import asyncio
import logging

import aiomqtt
from common import TOPIC, Meter, read_task

TOGETHER = 100


async def main() -> None:
    """Publish or receive."""
    task, meter = read_task(), Meter()
    logging.getLogger("mqtt").setLevel(logging.ERROR)
    async with aiomqtt.Client(task.host, task.port) as client:
        if task.role == "sub":
            await client.subscribe(TOPIC, qos=task.qos)
            meter.ready()
            left = task.count
            async for _ in client.messages:
                left -= 1
                if not left:
                    break
        else:
            meter.ready()
            for start in range(0, task.count, TOGETHER):
                number = min(TOGETHER, task.count - start)
                publishes = (client.publish(TOPIC, task.payload, task.qos, timeout=60) for _ in range(number))
                if task.qos:
                    await asyncio.gather(*publishes)
                else:
                    for publish in publishes:
                        await publish
        meter.report()


asyncio.run(main())
