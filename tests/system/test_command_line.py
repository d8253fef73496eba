"""The command line as a whole: start-up, help, errors, and the built wheel."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import venv
import zipfile
from importlib.metadata import Distribution, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

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

HELP_OF_EACH_COMMAND = """
import click, json, sys
from click.testing import CliRunner
from mqttkit.cli import cli

shown = {}

def walk(command, path):
    done = CliRunner().invoke(cli, [*path, "--help"], prog_name="mqttkit", catch_exceptions=False)
    assert done.exit_code == 0, (path, done.output)
    shown[" ".join(path)] = done.stdout
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            walk(command.get_command(context, name), [*path, name])

walk(cli, [])
json.dump(shown, sys.stdout)
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
    """All of it, in sub-commands too."""
    command = [sys.executable, "-m", "mqttkit", "sub", "--help"]
    shown = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "COLUMNS": "200"}, check=True)
    assert 120 < max(map(len, shown.stdout.splitlines())) <= 200


def test_closed_output_ends_with_0() -> None:
    """`mqttkit --help | head -1` is no error."""
    command = f"{sys.executable} -m mqttkit --help | head -1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("arguments", ["--help", "--version", "config show"])
@pytest.mark.parametrize(
    ("stdout", "cause"), [(">/dev/full", "No space left on device"), (">&-", "Bad file descriptor")]
)
def test_an_output_that_cannot_be_written_is_one_line_and_1(arguments: str, stdout: str, cause: str) -> None:
    """Also if the caller has closed stdout."""
    line = f"{sys.executable} -m mqttkit {arguments} {stdout}"
    done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (1, f"mqttkit: {cause}\n")


@pytest.mark.parametrize("stderr", ["2>/dev/full", "2>&-", "2> >(true)"])
@pytest.mark.parametrize(
    ("words", "code"), [("sub -p 1 x", 3), ("pub -d -p 1 -m y x", 3), ("pub x", 2), ("sub --odd", 2)]
)
def test_the_exit_code_is_that_of_the_cause_whether_or_not_it_can_be_said(words: str, code: int, stderr: str) -> None:
    """stderr on a full disk, closed, or with nobody who reads it."""
    command = f"{sys.executable} -m mqttkit {words} {stderr}"
    assert subprocess.run(["bash", "-c", command], stdin=subprocess.DEVNULL, check=False).returncode == code


def test_every_command_of_the_built_wheel_has_help(tmp_path: Path) -> None:
    """In an environment with nothing but the dependencies it declares, the wheel has every command and its captures."""
    wheel = build_wheel(tmp_path)
    files = wheel.namelist()
    assert not [name for name in files if name.startswith("tests") or "benchmarks" in name]
    assert [name for name in files if name.startswith("mqttkit/data/captures/")]
    assert {"mqttkit/data/completion.bash", "mqttkit/data/completion.zsh"} <= set(files)
    pages = {Path(name).stem for name in files if "share/man/man1/" in name}
    entry_points = next(name for name in files if name.endswith("entry_points.txt"))
    assert b"mqttkit = mqttkit.__main__:main" in wheel.read(entry_points)
    python = clean_environment(tmp_path / "venv", wheel)
    assert run("-c", "import pytest", python=python, cwd=tmp_path).returncode == 1
    asked = run("-c", HELP_OF_EACH_COMMAND, python=python, cwd=tmp_path)
    assert asked.returncode == 0, asked.stderr
    shown = json.loads(asked.stdout)
    assert "publish-scan" in shown
    for words, text in shown.items():
        assert text.startswith(f"Usage: {f'mqttkit {words}'.strip()} "), words
    assert pages == {f"mqttkit {words}".strip().replace(" ", "-") for words in shown}


def build_wheel(directory: Path) -> zipfile.ZipFile:
    """Build the wheel from a copy of the sources: what an earlier build left in the tree stays out of it."""
    sources = directory / "sources"
    shutil.copytree(ROOT / "mqttkit", sources / "mqttkit", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.cfg", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, sources)
    built = run("-m", "build", "--wheel", "--no-isolation", "--outdir", str(directory), str(sources))
    assert built.returncode == 0, built.stdout + built.stderr
    (wheel,) = directory.glob("*.whl")
    return zipfile.ZipFile(wheel)


def clean_environment(directory: Path, wheel: zipfile.ZipFile) -> str:
    """Make an environment with the wheel, and links to the packages that it depends on; return its Python."""
    venv.create(directory)
    (site,) = directory.glob("lib/python*/site-packages")
    wheel.extractall(site)
    for needed in dependencies("mqttkit", {}).values():
        for name in {file.parts[0] for file in needed.files or ()} - {"..", "__pycache__"}:
            (site / name).symlink_to(str(needed.locate_file(name)))
    return str(directory / "bin" / "python")


def dependencies(name: str, found: dict[str, Distribution]) -> dict[str, Distribution]:
    """Add what a distribution requires without any extra, directly and indirectly, to `found`."""
    for line in distribution(name).requires or ():
        requirement = Requirement(line)
        if requirement.name not in found and (requirement.marker is None or requirement.marker.evaluate({"extra": ""})):
            found[requirement.name] = distribution(requirement.name)
            dependencies(requirement.name, found)
    return found


def test_each_make_target_is_explained() -> None:
    """`make help` lists every target with its line."""
    done = subprocess.run(["make", "--no-print-directory", "help"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0
    targets = {line.split()[0] for line in done.stdout.splitlines()}
    assert {"demo", "test", "check"} <= targets
    phony = next(line for line in (ROOT / "Makefile").read_text().splitlines() if line.startswith(".PHONY:"))
    assert targets == set(phony.split()[1:])
