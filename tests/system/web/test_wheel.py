"""The wheel contains the page."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.system
ROOT = Path(__file__).parents[3]


def test_the_wheel_contains_each_file_of_the_page(tmp_path: Path) -> None:
    """Libraries, licences and our own files: without them an installed `mqttkit web` serves nothing."""
    source = tmp_path / "source"
    shutil.copytree(ROOT / "mqttkit", source / "mqttkit", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.cfg", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(source)]
    done = subprocess.run(build, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    static = ROOT / "mqttkit" / "web" / "static"
    wanted = {path.relative_to(ROOT).as_posix() for path in static.rglob("*") if path.is_file()}
    assert len(wanted) > 15
    assert wanted - names == set()
