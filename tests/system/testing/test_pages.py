"""The examples of the pages on recordings, retained messages, requests, expectations and the proxy run as shown."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.brokers import Mosquitto, free_port
from tests.support.pages import ROOT, find_page, shell_lines

pytestmark = pytest.mark.system


def commands(name: str) -> list[str]:
    """Return the command lines of a page."""
    return [line.split("  #")[0].strip() for line in shell_lines(find_page(name))]


def shell(script: str, broker: Mosquitto, directory: Path) -> subprocess.CompletedProcess[str]:
    """Run lines of shell; the first one that fails ends it. `mqttkit` is this one and finds the broker."""
    program = directory / "mqttkit"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m mqttkit "$@"\n')
    program.chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{directory}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "MQTTKIT_PORT": str(broker.port),
    }
    return subprocess.run(
        ["bash", "-ec", script], cwd=directory, env=environment, capture_output=True, text=True, timeout=120
    )


def publishing(topic: str, payload: str) -> str:
    """Return a shell line that publishes in the background, ten times a second, until the script ends."""
    line = f"while mqttkit pub '{topic}' -m '{payload}' -q 1 --repeat 50 --repeat-delay 0.1; do :; done"
    return f"{line} & loop=$!\ntrap 'kill $loop; wait $loop || true' EXIT"


def record(lines: list[str], _: int) -> str:
    """Record two seconds of traffic, and play it."""
    text = "\n".join(line.replace("-W 60", "-W 2") for line in lines if "NEW" not in line and "zstd -dc" not in line)
    return f"{publishing('site/1/value', '21.5')}\n{text.replace('--verify', '')}\ntest -s site.jsonl.zst"


def retained(lines: list[str], _: int) -> str:
    """With three messages; prune needs --yes here."""
    text = "\n".join(f"{line} --yes" if " prune " in line else line for line in lines)
    made = "for name in a old/b old/c; do mqttkit pub site/$name -m x -r -q 1; done"
    return f"{made}\n{text}\nmqttkit sub --retained-only -v 'site/#' | wc -l | grep -qx 3"


def request(lines: list[str], _: int) -> str:
    """The responder runs in the background; the answer is the reverse."""
    respond, ask = lines
    return (
        f"{respond} responder=$!\ntrap 'kill $responder; wait $responder || true' EXIT\nsleep 2\n{ask} | grep -qx olleh"
    )


def expect(lines: list[str], _: int) -> str:
    """A status is published all the time, and the job publishes its two messages."""
    job = (
        "printf '#!/bin/sh\\nmqttkit pub job/1 -m started -q 1\\nmqttkit pub job/1 -m done -q 1\\n' > job; chmod +x job"
    )
    return "\n".join((publishing("site/a/status", '{"state":"ready"}'), job, *lines))


def proxy(lines: list[str], port: int) -> str:
    """Each example forwards a publish, or refuses it; a signal ends it with 0."""
    parts = []
    for line in lines:
        command = line.replace("localhost:1883", "127.0.0.1:$MQTTKIT_PORT").replace(
            "proxy ", f"proxy --listen 127.0.0.1:{port} "
        )
        code = 4 if "answer CONNECT" in line else 0
        parts.append(
            f"{command} & running=$!\n"
            f"mqttkit wait-for-broker -p {port} -W 20 || test $? -eq {code}\n"
            f"mqttkit pub a -m x -q 1 -p {port} --no-retry || test $? -eq {code}\n"
            "kill $running; wait $running"
        )
    return "\n".join(parts)


@pytest.mark.parametrize("page", [record, retained, request, expect, proxy], ids=lambda page: page.__name__)
def test_the_examples_run(broker: Mosquitto, tmp_path: Path, page: Callable[[list[str], int], str]) -> None:
    """One after the other, each with exit code 0."""
    done = shell(page(commands(f"{page.__name__}.md"), free_port()), broker, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
