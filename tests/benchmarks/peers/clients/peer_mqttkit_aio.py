"""mqttkit.aio: at QoS 1 a hundred awaited together, as in aiomqtt's script."""

from __future__ import annotations

import asyncio

from common import TOPIC, Meter, read_task

from mqttkit import BrokerSettings, ClientSettings, LimitSettings, MqttSettings, aio

TOGETHER = 100


async def main() -> None:
    """Publish or receive."""
    task, meter = read_task(), Meter()
    settings = MqttSettings(
        broker=BrokerSettings(host=task.host, port=task.port),
        client=ClientSettings(version="311"),  # the default of the other clients
        limits=LimitSettings(max_inflight=task.window or LimitSettings().max_inflight),
    )
    async with aio.connect(settings) as client:
        if task.role == "sub":
            await client.subscribe(TOPIC, qos=task.qos)
            meter.ready()
            left = task.count
            async for _ in client.messages():
                left -= 1
                if not left:
                    break
        else:
            meter.ready()
            for start in range(0, task.count, TOGETHER):
                number = min(TOGETHER, task.count - start)
                receipts = [client.publish(TOPIC, task.payload, qos=task.qos) for _ in range(number)]
                for receipt in receipts:
                    await receipt
        meter.report()


asyncio.run(main())
