"""The pages of the documentation: where each is, and the blocks in it."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]


def find_page(name: str) -> Path:
    """Return the path of a page such as `broker.md`, whichever folder of docs/ it is in."""
    (found,) = DOCS.rglob(name)
    return found


def blocks(path: Path, language: str) -> list[str]:
    """Return the code blocks of a page in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", path.read_text(), re.M | re.S)


def shell_lines(path: Path) -> list[str]:
    """Return what the reader types: the lines after `$ ` in the console blocks of a page."""
    return [line[2:] for block in blocks(path, "console") for line in block.splitlines() if line.startswith("$ ")]


def reader_environment(directory: Path) -> dict[str, str]:
    """Put `mqttkit` and the examples into an empty directory; return the variables with which a shell finds them."""
    (directory / "mqttkit").write_text(f'#!/bin/sh\nexec {sys.executable} -m mqttkit "$@"\n')
    (directory / "mqttkit").chmod(0o755)
    (directory / "examples").symlink_to(ROOT / "examples")
    return {**os.environ, "PATH": f"{directory}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
