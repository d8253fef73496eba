"""action.yml and examples/ci: the commands that they run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.commands import mqttkit

pytestmark = pytest.mark.system

ROOT = Path(__file__).parents[3]


def shell(line: str, directory: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a step as CI does, with this mqttkit and this Python first on the PATH."""
    program = directory / "mqttkit"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m mqttkit "$@"\n')
    program.chmod(0o755)
    (directory / "python3").symlink_to(sys.executable)
    paths = f"{directory}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    return subprocess.run(
        ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", line],
        cwd=directory,
        env={**os.environ, "PATH": paths, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=100,
    )


def test_the_action_starts_a_broker_and_gives_its_port(tmp_path: Path) -> None:
    """With its own defaults but for the port, which may be taken on a machine that is shared."""
    action = yaml.safe_load((ROOT / "action.yml").read_text())
    inputs = {name: each["default"] for name, each in action["inputs"].items()}
    inputs["arguments"] += " --port 0"
    step = next(each for each in action["runs"]["steps"] if each.get("id") == "up")
    line = step["run"]
    for name, value in inputs.items():
        line = line.replace(f"${{{{ inputs.{name} }}}}", value)
    output = tmp_path / "output"
    try:
        done = shell(line, tmp_path, GITHUB_OUTPUT=str(output))
        assert done.returncode == 0, done.stderr
        name, _, port = output.read_text().strip().partition("=")
        assert name == "port"
        assert mqttkit("pub", "a", "-m", "x", "-q", "1", "-p", port).returncode == 0
    finally:
        mqttkit("broker", "down", "--volumes", "--yes")


def steps(path: Path) -> list[str]:
    """Return the shell lines of a recipe."""
    recipe: dict[Any, Any] = yaml.safe_load(path.read_text())
    if "jobs" in recipe:
        return [each["run"] for job in recipe["jobs"].values() for each in job["steps"] if "run" in each]
    return [line for job in recipe.values() for line in job["script"]]


@pytest.mark.parametrize("name", ["github-workflow.yml", "gitlab-ci.yml"])
def test_the_recipes_run_the_tests_of_a_project(tmp_path: Path, name: str) -> None:
    """Their pytest line, on a project with one test."""
    (tmp_path / "test_it.py").write_text(
        "def test_it(mqtt_client, mqtt_recorder):\n"
        "    mqtt_client.publish('a', 'x', qos=1).result(5)\n"
        "    assert mqtt_recorder.saw('a', 'x')\n"
    )
    *install, run = steps(ROOT / "examples" / "ci" / name)
    assert install == ["pip install 'mqttkit[embedded,expect]' pytest"]
    done = shell(run, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout
