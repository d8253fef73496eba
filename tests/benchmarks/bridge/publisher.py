"""A publisher of metrics in its own process: `python -m tests.benchmarks.bridge.publisher PORT RATE COUNT`."""

from __future__ import annotations

import subprocess
import sys
import time

from mqttkit.client import MqttClient
from mqttkit.settings import BrokerSettings, LimitSettings, MqttSettings
from tests.benchmarks.bridge.setup import payload, topic


def start_publisher(port: int, rate: float, count: int) -> subprocess.Popen[bytes]:
    """Start a process that publishes `count` metrics to the broker, `rate` per second."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.benchmarks.bridge.publisher", f"{port}", f"{rate}", f"{count}"]
    )


def publish_at(port: int, rate: float, count: int) -> None:
    """Publish metrics evenly, `rate` per second; the payload has the time of the publish."""
    settings = MqttSettings(
        broker=BrokerSettings(host="127.0.0.1", port=port), limits=LimitSettings(max_inflight=2_000)
    )
    with MqttClient(settings) as client:
        client.connect(timeout=10)
        began = time.monotonic()
        for number in range(count):
            ahead = began + number / rate - time.monotonic()
            if ahead > 0.002 or rate < 100:
                time.sleep(max(0.0, ahead))
            client.publish(topic(number), payload(number), qos=1, wait=60)
        client.flush(60)


if __name__ == "__main__":
    publish_at(int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]))
