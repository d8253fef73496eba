"""The pictures of the documentation, made from the real commands: `python -m tests.support.pictures`."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.text import Text

from mqttkit.cli.top.app import TopApp
from mqttkit.cli.top.tree_view import TreeView
from mqttkit.live.actions import RetainedMessages
from mqttkit.live.feed import Feed
from mqttkit.live.rows import Order
from mqttkit.live.tree import TopicTree
from mqttkit.settings import BrokerSettings, MqttSettings
from tests.support import browser_pictures
from tests.support.brokers import mosquitto
from tests.support.commands import MQTTKIT, mqttkit

PICTURES = Path(__file__).parents[2] / "docs" / "pictures"
RECORDINGS = Path(__file__).parents[2] / "examples" / "captures"
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
    """Write the pictures into docs/pictures."""
    drawings()
    screens()
    live_views()


def drawings() -> None:
    """Draw what has a source in docs/pictures."""
    subprocess.run(["dot", "-Tsvg", "architecture.dot", "-o", "architecture.svg"], cwd=PICTURES, check=True)
    for name in ("commit", "controller"):
        subprocess.run(["mscgen", "-T", "svg", "-i", f"{name}.msc", "-o", f"{name}.svg"], cwd=PICTURES, check=True)


def screens() -> None:
    """Write demo.svg, decode.svg, and doctor.svg of a broker that `broker up` has just started."""
    with tempfile.TemporaryDirectory() as directory:
        environment = {**os.environ, "HOME": directory, "XDG_STATE_HOME": f"{directory}/state"}
        _write("demo", _screen("mqttkit demo --seconds 6 --backend process", 100, 24, environment))
        thermometers = "--service ec88 --service 181a"
        line = f"mqttkit scan --decode --source replay:adverts.jsonl {thermometers} --speed max --duration 3"
        _write("decode", _screen(line, 132, 24, environment, RECORDINGS))
        subprocess.run([*MQTTKIT, "broker", "up", "--backend", "process"], env=environment, check=True)
        _write("doctor", _screen("mqttkit doctor", 100, 40, environment))
        subprocess.run([*MQTTKIT, "broker", "down"], env=environment, check=True)


def _screen(line: str, columns: int, rows: int, environment: dict[str, str], directory: Path = Path()) -> str:
    """Return what a line of shell leaves on a terminal of this size, as SVG."""
    path = f"{Path(sys.executable).parent}:{environment['PATH']}"
    tmux = ["tmux", "-L", f"pictures-{os.getpid()}", "-f", "/dev/null"]
    script = f"PATH={path}; {line}; tmux wait-for -S shown; read line"
    size = ["-x", str(columns), "-y", str(rows)]
    subprocess.run([*tmux, "new-session", "-d", *size, "sh", "-c", script], env=environment, cwd=directory, check=True)
    try:
        subprocess.run([*tmux, "wait-for", "shown"], check=True, timeout=120)
        shown = subprocess.run(
            [*tmux, "capture-pane", "-p", "-e", "-S", "-50"], check=True, capture_output=True, text=True
        ).stdout
    finally:
        subprocess.run([*tmux, "kill-server"], check=True)
    console = Console(record=True, width=columns, file=io.StringIO(), legacy_windows=False)
    console.print(Text.from_ansi("\n".join(f"$ {one.strip()}" for one in line.split(";")) + "\n" + shown.rstrip()))
    return console.export_svg(title=line.rsplit(";", maxsplit=1)[-1].strip())


def live_views() -> None:
    """Write top.svg and the pictures of `mqttkit web`."""
    with tempfile.TemporaryDirectory() as directory, mosquitto(Path(directory), "sys_interval 1") as broker:
        mqttkit("pub", "-r", "-m", '{"name":"House 7","opened":2019,"floors":2}', "house/about", port=broker.port)
        with _fleets(broker.port):
            with browser_pictures.scanners(broker.port, Path(directory)):
                sys.stdout.writelines(f"{path}\n" for path in browser_pictures.take(broker.port, PICTURES))
            svg = asyncio.run(_picture(MqttSettings(broker=BrokerSettings(host="localhost", port=broker.port))))
    _write("top", svg.replace(f":{broker.port}", ":1883"))


def _write(name: str, svg: str) -> None:
    path = PICTURES / f"{name}.svg"
    path.write_text("\n".join(line.rstrip() for line in svg.splitlines()) + "\n")
    sys.stdout.write(f"{path}\n")


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
