"""One measurement of the library in its own process: `python -m tests.benchmarks.wire.library WORK PORT COUNT SIZE`.

Prints seconds and CPU seconds as JSON. The CPU time is that of the whole process, from the connection to the last
message.
"""

from __future__ import annotations

import json
import sys
import threading
import time

from mqttkit.bench.usage import cpu_seconds
from mqttkit.client import MqttClient
from mqttkit.messages import Message
from mqttkit.settings import BrokerSettings, ClientSettings, MqttSettings
from tests.benchmarks.wire.peer import LIMIT_SECONDS, TOPIC

BLOCK = 1_000
"""Messages per `publish_many`."""


def publish(client: MqttClient, count: int, size: int) -> None:
    """Call `publish` for each message."""
    for _ in range(count):
        client.publish(TOPIC, b"x" * size, wait=LIMIT_SECONDS)
    assert client.flush(LIMIT_SECONDS)


def publish_many(client: MqttClient, count: int, size: int) -> None:
    """Call `publish_many` for blocks of messages."""
    for _ in range(count // BLOCK):
        client.publish_many(TOPIC, [b"x" * size for _ in range(BLOCK)], wait=LIMIT_SECONDS)
    assert client.flush(LIMIT_SECONDS)


def measure_publishing(work: str, settings: MqttSettings, count: int, size: int) -> tuple[float, float]:
    """Return seconds and CPU seconds."""
    with MqttClient(settings, retry=False) as client:
        client.connect()
        began, cpu = time.perf_counter(), cpu_seconds()
        {"publish": publish, "publish_many": publish_many}[work](client, count, size)
        return time.perf_counter() - began, cpu_seconds() - cpu


def measure_receiving(settings: MqttSettings, count: int, size: int) -> tuple[float, float]:
    """Return seconds and CPU seconds of `on_messages`, whose handler looks at each payload."""
    ended, received = threading.Event(), 0

    def receive(messages: list[Message]) -> None:
        nonlocal received
        received += len([message for message in messages if len(message.payload) == size])
        if received == count:
            ended.set()

    with MqttClient(settings, on_messages=receive, retry=False) as client:
        client.connect()
        began, cpu = time.perf_counter(), cpu_seconds()
        client.subscribe(TOPIC)
        assert ended.wait(LIMIT_SECONDS)
        return time.perf_counter() - began, cpu_seconds() - cpu


def main() -> None:
    """Measure and print."""
    work, port, count, size = sys.argv[1], *map(int, sys.argv[2:])
    settings = MqttSettings(
        broker=BrokerSettings(host="127.0.0.1", port=port), client=ClientSettings(client_id=f"wire-{work}")
    )
    if work == "on_messages":
        seconds, cpu = measure_receiving(settings, count, size)
    else:
        seconds, cpu = measure_publishing(work, settings, count, size)
    sys.stdout.write(json.dumps({"seconds": seconds, "cpu": cpu}))


if __name__ == "__main__":
    main()
