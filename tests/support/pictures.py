"""The pictures of the documentation, made from the real commands: `python -m tests.support.pictures`."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from mqttkit.cli.top.app import TopApp
from mqttkit.cli.top.tree_view import TreeView
from mqttkit.live.actions import RetainedMessages
from mqttkit.live.feed import Feed
from mqttkit.live.rows import Order
from mqttkit.live.tree import TopicTree
from mqttkit.settings import BrokerSettings, MqttSettings
from tests.support.brokers import mosquitto
from tests.support.commands import MQTTKIT, mqttkit

PICTURES = Path(__file__).parents[2] / "docs" / "pictures"
SIZE = (132, 34)
FLEETS = (
    ("house", "temperature", "room", 3, 2),
    ("house", "humidity", "cellar", 2, 1),
    ("plant", "vibration", "pump", 3, 5),
    ("plant", "power", "line", 2, 2),
)
"""Place, model, name, number of sensors, readings per second."""
RUNNING_SECONDS = 20.0
SHOWN = "plant/vibration/pump-002"


def main() -> None:
    """Write docs/pictures/top.svg."""
    PICTURES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as directory, mosquitto(Path(directory), "sys_interval 1") as broker:
        mqttkit("pub", "-r", "-m", '{"name":"House 7","opened":2019,"floors":2}', "house/about", port=broker.port)
        with _fleets(broker.port):
            svg = asyncio.run(_picture(MqttSettings(broker=BrokerSettings(host="localhost", port=broker.port))))
    text = "\n".join(line.rstrip() for line in svg.replace(f":{broker.port}", ":1883").splitlines())
    (PICTURES / "top.svg").write_text(text + "\n")
    sys.stdout.write(f"{PICTURES / 'top.svg'}\n")


@contextlib.contextmanager
def _fleets(port: int) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for place, model, name, count, rate in FLEETS:
            topic = f"{place}/{{model}}/{{sensor_id}}"
            words = ["--model", model, "--count", str(count), "--rate", str(rate), "--name", name, "--topic", topic]
            command = [*MQTTKIT, "node", "sensor", *words, "-h", "127.0.0.1", "-p", str(port), "-q", "0"]
            process = stack.enter_context(
                subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            )
            stack.callback(process.terminate)
        yield


async def _picture(settings: MqttSettings) -> str:
    with Feed(settings, ["#"], TopicTree()) as feed, RetainedMessages(settings) as retained:
        app = TopApp(feed, retained, Order.NAME)
        async with app.run_test(size=SIZE) as pilot:
            view = app.query_one(TreeView)
            while (node := feed.tree.find(SHOWN)) is None:
                await pilot.pause(0.2)
            view.rebuild()
            view.reveal(node)
            await pilot.pause(RUNNING_SECONDS)
            return app.export_screenshot(title="mqttkit top")


if __name__ == "__main__":
    main()
