"""The examples of docs/reference/pub.md and docs/reference/sub.md do what the pages show."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mqttkit.testing.broker import TestBroker
from tests.support.brokers import Mosquitto, mosquitto
from tests.support.pages import ROOT, find_page, shell_lines
from tests.support.probe import Probe

pytestmark = pytest.mark.system

ENDLESS = re.compile(r"mqttkit sub (?!.*(-C|--retained-only))|tail -f|other-broker")


def examples(name: str) -> list[str]:
    """Return the shell lines of a page that end by themselves and need one broker."""
    return [line for line in shell_lines(find_page(name)) if not ENDLESS.search(line)]


def shell(line: str, broker: Mosquitto, directory: Path) -> subprocess.CompletedProcess[str]:
    """Run a line of shell in which `mqttkit` is this one and the broker is where it looks."""
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
        ["bash", "-c", line], cwd=directory, env=environment, capture_output=True, text=True, timeout=40, check=False
    )


@pytest.mark.parametrize("line", [line for line in examples("pub.md") if "forbidden" not in line])
def test_each_example_of_pub_ends_with_0(shared_broker: TestBroker, tmp_path: Path, line: str) -> None:
    """The commands of docs/reference/pub.md publish what they say."""
    (tmp_path / "picture.jpg").write_bytes(b"\xff\xd8")
    (tmp_path / "copy.jsonl").write_text(json.dumps({"topic": "a", "payload": "b"}) + "\n")
    line = line.replace("--repeat-delay 1", "--repeat-delay 0.01")
    result = shell(line, shared_broker, tmp_path)
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize("line", examples("sub.md"))
def test_each_example_of_sub_ends_as_described(broker: Mosquitto, tmp_path: Path, line: str) -> None:
    """The commands of docs/reference/sub.md that end by themselves print the retained message that is there."""
    with Probe(broker.port) as probe:
        for topic in ("health/broker", "old/thing"):
            probe.publish(topic, b"kept", retain=True)
    result = shell(line, broker, tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    assert "kept" in result.stdout


def test_the_denial_reads_as_shown(tmp_path: Path) -> None:
    """The page quotes the error as it is printed."""
    rules = tmp_path / "acl"
    rules.write_text("topic readwrite open/#\n")
    rules.chmod(0o600)
    line = next(line for line in examples("pub.md") if "forbidden" in line)
    with mosquitto(tmp_path / "broker", f"acl_file {rules}") as broker:
        result = shell(line, broker, tmp_path)
    assert result.returncode == 6
    assert f"$ {line}\n{result.stderr}" in find_page("pub.md").read_text()
