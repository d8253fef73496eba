"""paho-mqtt as its documentation shows it: loop_start, publish, wait."""

from __future__ import annotations

import threading
from typing import Any

from common import TOPIC, Meter, read_task
from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion

task, meter = read_task(), Meter()
connected, subscribed, done, count = threading.Event(), threading.Event(), threading.Event(), 0


def counted(*_: Any) -> None:
    """Count a received or an acknowledged message."""
    global count  # noqa: PLW0603  # the handler's only state
    count += 1
    if count >= task.count:
        done.set()


client = paho.Client(CallbackAPIVersion.VERSION2)
if task.window is not None:
    client.max_inflight_messages_set(task.window)
client.on_connect = lambda *_: connected.set()
client.on_subscribe = lambda *_: subscribed.set()
client.on_message = counted
client.connect(task.host, task.port)
client.loop_start()
connected.wait(10)
if task.role == "sub":
    client.subscribe(TOPIC, qos=task.qos)
    subscribed.wait(10)
else:
    client.on_publish = counted
meter.ready()
if task.role == "pub":
    for _ in range(task.count):
        client.publish(TOPIC, task.payload, task.qos)
done.wait()
meter.report()
client.disconnect()
client.loop_stop()
