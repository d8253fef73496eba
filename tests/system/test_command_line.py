"""The command line as a whole: start-up, help, errors, and the built wheel."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

pytestmark = pytest.mark.system

ROOT = Path(__file__).parents[2]

LIST_COMMANDS = """
import click, sys
from mqttkit.cli import cli

def walk(command, path):
    print(*path)
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            walk(command.get_command(context, name), [*path, name])

walk(cli, [])
"""


def run(*arguments: str, python: str = sys.executable, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run a Python with arguments and return what came of it."""
    return subprocess.run([python, *arguments], capture_output=True, text=True, cwd=cwd)


@pytest.mark.parametrize("option", ["--version", "--help"])
def test_start_up_imports_nothing_heavy(option: str) -> None:
    """Version and help need neither paho, rich, docker nor yaml."""
    code = (
        "import json, sys\n"
        "from mqttkit.cli import cli\n"
        "try: cli.main([sys.argv[1]])\n"
        "except SystemExit as end: assert not end.code\n"
        "print(json.dumps(sorted(sys.modules)))\n"
    )
    done = run("-c", code, option)
    assert done.returncode == 0, done.stderr
    loaded = {name.partition(".")[0] for name in json.loads(done.stdout.splitlines()[-1])}
    assert "click" in loaded
    assert not loaded & {"paho", "rich", "docker", "yaml", "cryptography", "bleak", "redis", "asyncio", "ssl"}


def test_interrupt_while_the_command_is_loaded_ends_it_without_a_trace(tmp_path: Path) -> None:
    """Ctrl-C ends with 130 and says nothing, even before the first import is done."""
    (tmp_path / "click.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\nimport heapq\n")
    command = [sys.executable, "-c", "from mqttkit.__main__ import main; main()"]
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stderr) == (130, "")


def test_unknown_command_names_the_nearest() -> None:
    """A slip of the finger is answered with what was meant, and 2."""
    done = run("-m", "mqttkit", "publish-scam")
    assert done.returncode == 2
    assert "Did you mean: mqttkit publish-scan" in done.stderr


def test_no_line_in_a_list_of_commands_is_cut_short() -> None:
    """Each group says what its commands do in whole sentences."""
    code = LIST_COMMANDS.replace(
        "print(*path)", "print(command.get_help(click.Context(command)).partition('Commands:')[2])"
    )
    listed = run("-c", code).stdout
    assert "Verify an archive on a temporary broker." in listed
    assert [line for line in listed.splitlines() if line.endswith("...")] == []


def test_help_uses_the_width_of_the_terminal() -> None:
    """Up to 120 columns, in sub-commands too."""
    command = [sys.executable, "-m", "mqttkit", "sub", "--help"]
    shown = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "COLUMNS": "200"}, check=True)
    assert 100 < max(map(len, shown.stdout.splitlines())) <= 120


def test_closed_output_ends_with_0() -> None:
    """`mqttkit --help | head -1` is no error."""
    command = f"{sys.executable} -m mqttkit --help | head -1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("stderr", ["2>/dev/full", "2>&-", "2> >(true)"])
@pytest.mark.parametrize(
    ("words", "code"), [("sub -p 1 x", 3), ("pub -d -p 1 -m y x", 3), ("pub x", 2), ("sub --odd", 2)]
)
def test_the_exit_code_is_that_of_the_cause_whether_or_not_it_can_be_said(words: str, code: int, stderr: str) -> None:
    """stderr on a full disk, closed, or with nobody who reads it."""
    command = f"{sys.executable} -m mqttkit {words} {stderr}"
    assert subprocess.run(["bash", "-c", command], stdin=subprocess.DEVNULL, check=False).returncode == code


@pytest.mark.timeout(300)
def test_every_command_of_the_built_wheel_has_help(tmp_path: Path) -> None:
    """The wheel, installed in a clean environment, has every command, its captures, and nothing it does not need."""
    built = run("-m", "build", "--wheel", "--outdir", str(tmp_path), str(ROOT))
    assert built.returncode == 0, built.stdout + built.stderr
    (wheel,) = tmp_path.glob("*.whl")
    files = zipfile.ZipFile(wheel).namelist()
    assert not [name for name in files if name.startswith("tests") or "peer" in name]
    venv.create(tmp_path / "venv", with_pip=True)
    python = str(tmp_path / "venv" / "bin" / "python")
    installed = run("-m", "pip", "install", "--quiet", "--disable-pip-version-check", str(wheel), python=python)
    assert installed.returncode == 0, installed.stderr
    listed = run("-c", LIST_COMMANDS, python=python, cwd=tmp_path)
    assert listed.returncode == 0, listed.stderr
    commands = [line.split() for line in listed.stdout.splitlines()]
    assert ["publish-scan"] in commands
    program = str(tmp_path / "venv" / "bin" / "mqttkit")

    def ask(words: list[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run([program, *words, "--help"], capture_output=True, text=True, cwd=tmp_path)

    with ThreadPoolExecutor(2) as pool:
        for words, done in zip(commands, pool.map(ask, commands), strict=True):
            assert done.returncode == 0, (words, done.stderr)
            assert done.stdout.startswith(f"Usage: {' '.join(['mqttkit', *words])} "), words
    replay = "import importlib.resources as r; print(r.files('mqttkit').joinpath('data/captures').iterdir().__next__())"
    assert run("-c", replay, python=python, cwd=tmp_path).returncode == 0


def test_each_make_target_is_explained() -> None:
    """`make help` lists every target with its line."""
    done = subprocess.run(["make", "--no-print-directory", "help"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0
    targets = {line.split()[0] for line in done.stdout.splitlines()}
    assert {"demo", "test", "check"} <= targets
    phony = next(line for line in (ROOT / "Makefile").read_text().splitlines() if line.startswith(".PHONY:"))
    assert targets == set(phony.split()[1:])
