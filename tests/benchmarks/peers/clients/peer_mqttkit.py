"""mqttkit as a library."""

from __future__ import annotations

import threading

from common import TOPIC, Meter, read_task

from mqttkit.client import MqttClient
from mqttkit.messages import Message, Subscription
from mqttkit.settings import BrokerSettings, ClientSettings, LimitSettings, MqttSettings

task, meter = read_task(), Meter()
done, received = threading.Event(), 0


def receive(messages: list[Message]) -> None:
    """Count messages."""
    global received  # noqa: PLW0603  # the handler's only state
    received += len(messages)
    if received >= task.count:
        done.set()


settings = MqttSettings(
    broker=BrokerSettings(host=task.host, port=task.port),
    client=ClientSettings(version="311"),  # the default of the other clients
    limits=LimitSettings(max_inflight=task.window or LimitSettings().max_inflight),
)
with MqttClient(settings, on_messages=receive) as client:
    client.connect(timeout=10)
    if task.role == "sub":
        client.subscribe(Subscription(TOPIC, qos=task.qos))
    meter.ready()
    if task.role == "sub":
        done.wait()
    else:
        publish, payload, qos = client.publish, task.payload, task.qos
        for _ in range(task.count):
            publish(TOPIC, payload, qos=qos, wait=60)
        client.flush(120)
    meter.report()
