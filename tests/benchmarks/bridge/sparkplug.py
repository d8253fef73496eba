"""Measure the CPU time of Sparkplug messages in the bridge's parser, and of its import: `make bench-sparkplug`."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from mqttkit.bridge.flow.mapping import open_parser
from mqttkit.messages import Message
from mqttkit.settings import BridgeSettings, SparkplugSettings
from tests.support.sparkplug import FLOAT, EdgeNode

GROUP = "6f1d7c1e-0000-4000-8000-000000000001"
BATCH = 500
"""Messages between two saves, as the bridge has under load."""
ROUNDS = 5
IMPORT = """
import time, mqttkit.bridge.service
pages = lambda: int(open("/proc/self/statm").read().split()[1]) * 4096
before, began = pages(), time.process_time()
from mqttkit.bridge.sparkplug.payload import payload_class
payload_class()
print((time.process_time() - began) * 1000, (pages() - before) / 1e6)
"""


def messages(metrics: int, count: int, *, births: bool) -> list[Message]:
    """Return a birth of 500 metrics, and then births or data in the order of a node's messages."""
    found: list[Message] = []
    node = EdgeNode(lambda topic, body: found.append(Message(topic, body)), GROUP)
    names = {f"Motor {number}/Temperature": (FLOAT, number * 0.5) for number in range(500)}
    node.birth(names)
    for _ in range(count):
        if births:
            node.birth(names)
        else:
            node.data({name: value for name, (_, value) in list(names.items())[:metrics]})
    return found


def measure(work: Callable[[], object]) -> float:
    """Return the least CPU seconds of several rounds."""
    best = float("inf")
    for _ in range(ROUNDS):
        began = time.process_time()
        work()
        best = min(best, time.process_time() - began)
    return best


def parse_all(sent: list[Message], directory: Path) -> None:
    """Parse, accept and save messages as the pipeline does."""
    bridge = BridgeSettings(sparkplug=SparkplugSettings(enabled=True))
    parser = open_parser(bridge, directory / "state.db")
    parser.open()
    for first in range(0, len(sent), BATCH):
        parser.begin()
        for message in sent[first : first + BATCH]:
            parser.parse_message(message, 0)
        parser.accept()
        parser.save()
    parser.close()


def main() -> None:
    """Measure and print the figures."""
    with tempfile.TemporaryDirectory() as directory:
        for label, metrics, count, births in (
            ("birth of 500 metrics", 500, 100, True),
            ("data of 1 metric", 1, 10_000, False),
            ("data of 20 metrics", 20, 2_000, False),
        ):
            sent = messages(metrics, count, births=births)
            alone = measure(lambda: parse_all(sent[:1], Path(directory)))  # noqa: B023 - called now
            whole = measure(lambda: parse_all(sent, Path(directory)))  # noqa: B023 - called now
            print(f"{label}: {(whole - alone) / count * 1e6:,.1f} µs of CPU a message")
    done = subprocess.run([sys.executable, "-c", IMPORT], capture_output=True, text=True, check=True)
    milliseconds, megabytes = map(float, done.stdout.split())
    print(f"import of protobuf: {milliseconds:.0f} ms of CPU, {megabytes:.1f} MB resident")


if __name__ == "__main__":
    main()
