"""The tutorials of docs/tutorial do what they say, from the first line to the last."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.brokers import free_port, need
from tests.support.pages import find_page, reader_environment, shell_lines

pytestmark = pytest.mark.system


def run(lines: list[str], directory: Path) -> str:
    """Run lines of shell, of which the first failure ends the script, on a native mosquitto; return what they print."""
    up = f"mqttkit broker up --backend process --log-type subscribe --port {free_port()}"
    script = "\n".join(line.replace("mqttkit broker up", up).replace("python3", sys.executable) for line in lines)
    place = {"HOME": str(directory), "XDG_STATE_HOME": str(directory / "state")}
    environment = {**reader_environment(directory), **place}
    stop = "mqttkit broker down >/dev/null 2>&1 || true; kill $(jobs -p) 2>/dev/null || true; wait"
    done = subprocess.run(
        ["bash", "-ec", f"trap '{stop}' EXIT\n{script}"],
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def wait_for(condition: str) -> str:
    """Return a loop that ends once the condition holds, or fails after a minute: a shell's way to wait for an event."""
    return f"for n in $(seq 600); do {condition} && break; sleep 0.1; done; {condition}"


def subscribed(topic_filter: str) -> str:
    """Return a loop that ends once the broker has logged a subscription to the filter."""
    return wait_for(f"mqttkit broker logs | grep -q ' {topic_filter}$'")


def after(lines: list[str], part: str, *more: str) -> None:
    """Insert lines after the one that contains `part`."""
    index = next(index for index, line in enumerate(lines) if part in line)
    lines[index + 1 : index + 1] = more


def test_the_first_message_arrives(tmp_path: Path) -> None:
    """`sub` prints the message, the retained value can be read, and doctor finds no failure."""
    need("mosquitto")
    lines = [line.replace("'home/#' &", "'home/#' > sub.out &") for line in shell_lines(find_page("first-message.md"))]
    after(lines, "mqttkit sub -v", subscribed("home/#"))
    after(lines, "mqttkit pub -m", wait_for("grep -q '^home/kitchen/temperature 21.5$' sub.out"))
    printed = run(lines, tmp_path)
    assert "\n2\n" in printed
    assert " 0 fail," in printed


def test_each_advertisement_reaches_the_database(tmp_path: Path) -> None:
    """412 advertisements are replayed, and 412 metrics are stored."""
    need("mosquitto")
    page = find_page("bluetooth-to-database.md")
    lines = [line.replace("btsnoop", "btsnoop --speed max") for line in shell_lines(page)]
    query = next(line for line in lines if "sqlite3.connect" in line)
    after(lines, "bridge run", subscribed("metrics/#"))
    after(lines, "ble_metrics.py", subscribed("ble/raw/#"))
    after(lines, "publish-scan", wait_for(f"{query} | grep -q ^412"))
    assert re.search(r"^412 -\d+\.0 -\d+\.0$", run(lines, tmp_path), re.M)
