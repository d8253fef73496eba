"""The examples of docs/reference/scan.md do what the page shows."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mqttkit.scanner import Advertisement
from tests.support.pages import ROOT, blocks, find_page, reader_environment

pytestmark = pytest.mark.system

PAGE = find_page("scan.md")
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


def test_the_commands_print_what_the_page_shows(tmp_path: Path) -> None:
    """Those that need no radio, in their order, in a shell; time stamps aside."""
    environment = reader_environment(tmp_path)
    ran = 0
    for block in blocks(PAGE, "console"):
        for entry in block.split("$ ")[1:]:
            command, _, shown = entry.partition("\n")
            if "simulated" in command or "replay:" in command:
                done = subprocess.run(
                    ["sh", "-c", f"{command} 2>&1"],
                    cwd=tmp_path,
                    env=environment,
                    check=False,
                    text=True,
                    capture_output=True,
                )
                assert done.returncode == 0, done.stdout
                ran += 1
                if shown:
                    assert masked(done.stdout) == masked(shown)
    assert ran == 6
    assert len((tmp_path / "again.jsonl").read_text().splitlines()) == 100


def masked(text: str) -> str:
    """Return the text without times, and without counts that depend on how many came at once."""
    return re.sub(r"(not shown: \w+) \d+", r"\1 N", TIME.sub("TIME", text))


def test_the_line_of_json_that_the_page_shows_is_one() -> None:
    """It reads, and writes itself again as it stands there."""
    (block,) = blocks(PAGE, "json")
    assert Advertisement.from_json(json.loads(block)).to_json() == json.loads(block)


def test_the_python_of_the_page_runs() -> None:
    """Three advertisements, then nothing dropped."""
    (block,) = blocks(PAGE, "python")
    done = subprocess.run([sys.executable, "-c", block], check=True, text=True, capture_output=True, cwd=ROOT)
    assert len(done.stdout.splitlines()) == 4
    assert done.stdout.endswith("\n{}\n")
