"""Pictures of `mqttkit web`, taken in Chromium while sensors and scanners publish."""

from __future__ import annotations

import contextlib
import json
import math
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.support.clients import wait_until
from tests.support.commands import MQTTKIT
from tests.support.web import browser, page_of

CAPTURE = Path(__file__).parents[2] / "examples" / "captures" / "adverts.jsonl"
SIZE = (1320, 860)
SCANNERS = {"entrance": (0.0, 0.0), "hall": (10.0, 1.0), "workshop": (5.0, 8.0)}
"""Name and position, metres."""
DEVICES = 24
ROUNDS = 200
SHOWN = "plant/vibration/pump-002"
RUNNING = "return mqttkit.stream.history.length >= 20"
"""Twenty seconds of figures have arrived."""


@contextlib.contextmanager
def scanners(port: int, directory: Path) -> Iterator[None]:
    """Publish real advertisements from three scanners, with the RSSI that their distances would give."""
    chosen = random.Random(15)
    captured = [json.loads(line) for line in CAPTURE.read_text().splitlines()]
    known = list({each["mac_address"]: each for each in captured if each.get("mac_address")}.values())
    devices = [(each, (chosen.uniform(-2, 12), chosen.uniform(-3, 11))) for each in chosen.sample(known, DEVICES)]
    with contextlib.ExitStack() as stack:
        for name, place in SCANNERS.items():
            path = directory / f"{name}.jsonl"
            path.write_text("".join(_lines(devices, place, chosen)))
            words = ["--source", f"replay:{path}", "--loop", "--scanner-id", name, "-h", "127.0.0.1", "-p", str(port)]
            command = [*MQTTKIT, "publish-scan", *words]
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            stack.callback(stack.enter_context(process).terminate)
        yield


def _lines(devices: list[Any], place: tuple[float, float], chosen: random.Random) -> Iterator[str]:
    for _ in range(ROUNDS):
        for advertisement, where in devices:
            rssi = -45 - 28 * math.log10(max(0.5, math.dist(place, where))) + chosen.gauss(0, 2)
            if rssi > -76:
                yield json.dumps({**advertisement, "rssi": round(rssi)}) + "\n"


def take(port: int, pictures: Path) -> list[Path]:
    """Write the pictures and return their paths; the sensors are running."""
    paths = [pictures / "web.png", pictures / "web-bluetooth.png"]
    with page_of(port) as page, browser(size=SIZE) as driver:
        driver.get(page.address)
        wait_until(lambda: driver.execute_script(RUNNING))
        driver.execute_script("mqttkit.openAll(false)")
        driver.execute_script("for (const t of ['house','plant','plant/vibration']) mqttkit.model.opened.set(t, true)")
        driver.execute_script("mqttkit.select(mqttkit.model.find(arguments[0]))", SHOWN)
        wait_until(lambda: driver.execute_script("return mqttkit.model.series.get(arguments[0])?.version > 60", SHOWN))
        _save(driver, paths[0])
        driver.find_element("css selector", "#tab-bluetooth").click()
        _save(driver, paths[1])
    return paths


def _save(driver: Any, path: Path) -> None:
    """Take a picture with the usual port in the header."""
    usual = "mqttkit.stream.second.connection.address = 'localhost:1883'; mqttkit.redraw()"
    driver.execute_script(usual)
    driver.save_screenshot(str(path))
