"""docs/how-to/scan-troubleshooting.md: its commands run, and the messages it explains are the program's."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mqttkit.testing.broker import TestBroker
from tests.support.pages import ROOT, find_page, shell_lines

pytestmark = pytest.mark.system

PAGE = find_page("scan-troubleshooting.md")


def test_each_command_ends_with_0(shared_broker: TestBroker, tmp_path: Path) -> None:
    """In their order: the last one replays what the one before recorded."""
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    (tmp_path / "mqttkit").write_text(f'#!/bin/sh\nexec {sys.executable} -m mqttkit "$@"\n')
    (tmp_path / "mqttkit").chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "MQTTKIT_PORT": str(shared_broker.port),
    }
    for line in shell_lines(PAGE):
        if "doctor" not in line:  # a broker for tests does not pass every check
            done = subprocess.run(
                ["sh", "-c", line], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=100
            )
            assert done.returncode == 0, f"{line}\n{done.stderr}"
    assert (tmp_path / "room.jsonl").stat().st_size > 0


def test_each_message_that_the_page_explains_is_in_the_program() -> None:
    """The first column of its two tables."""
    rows = re.findall(r"^\| `([^`]+)` \|", PAGE.read_text(), re.MULTILINE)
    assert len(rows) == 11
    program = "\n".join(path.read_text() for path in (ROOT / "mqttkit").rglob("*.py"))
    for message in rows:
        text = message.removesuffix(" …").removeprefix("lost: ")
        assert text in program, message
