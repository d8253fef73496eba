"""README and docs/ tell the truth: every command parses, every link leads somewhere, the first pipeline runs."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest

from mqttkit.cli import COMMANDS, cli
from mqttkit.cli.help_topics import TOPICS
from mqttkit.cli.lazy import LazyGroup
from tests.support.brokers import free_port, need
from tests.support.pages import DOCS, PAGES, ROOT, blocks, find_page

pytestmark = pytest.mark.system

SHELL_WORDS = re.compile(r"[|<>&;]|\d>")


def console_commands(path: Path) -> list[list[str]]:
    """Return the words of each mqttkit command in the page's console blocks, without what the shell takes."""
    commands = []
    for block in blocks(path, "console"):
        for line in block.replace("\\\n", " ").splitlines():
            if not line.startswith("$ "):
                continue
            words = shlex.split(line[2:], comments=True)
            while "mqttkit" in words:
                words = words[words.index("mqttkit") + 1 :]
                end = next((index for index, word in enumerate(words) if SHELL_WORDS.match(word)), len(words))
                commands.append(words[:end])
                words = words[end:]
    return commands


@pytest.mark.parametrize(("page", "words"), [(page.name, words) for page in PAGES for words in console_commands(page)])
def test_each_documented_command_parses(page: str, words: list[str]) -> None:
    """Commands, options and arguments in the pages are those that there are."""
    command: click.Command = cli
    with contextlib.ExitStack() as stack:
        context = stack.enter_context(click.Context(cli, info_name="mqttkit"))
        while isinstance(command, LazyGroup) and (words := command.with_default(words)) and words[0][0] != "-":
            found = command.get_command(context, words[0])
            assert found is not None, f"{page}: no command {words[0]!r}"
            command, words = found, words[1:]
        try:
            command.make_context(command.name, list(words), parent=context).close()
        except click.exceptions.Exit as finished:
            assert finished.exit_code == 0


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_each_link_leads_to_a_file(page: Path) -> None:
    """Relative links in the pages name files that are there."""
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
        assert (page.parent / target).exists(), target


def test_each_command_has_a_reference() -> None:
    """The reference generates every command, each on one page."""
    pages = "\n".join(path.read_text() for path in PAGES if path.name.endswith("-commands.md"))
    assert sorted(re.findall(r":prog: mqttkit (\S+)", pages)) == sorted(COMMANDS)
    for name, entry in COMMANDS.items():
        assert f".. click:: {entry.module}:{entry.attribute}\n   :prog: mqttkit {name}\n" in pages


def test_the_page_of_exit_codes_is_what_help_prints() -> None:
    """The table and `mqttkit help exit-codes` have the same rows."""
    rows = re.findall(r"^\| (\d+) \| (.*) \|$", find_page("exit-codes.md").read_text(), re.M)
    assert rows == re.findall(r"^  (\d+) +(.*)$", TOPICS["exit-codes"], re.M)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_each_page_is_in_the_contents(path: Path) -> None:
    """The index lists every page of docs/ itself."""
    if path.is_relative_to(DOCS) and path.name != "index.md":
        assert f"\n{path.relative_to(DOCS).with_suffix('')}\n" in (DOCS / "index.md").read_text()


def test_readme_s_first_pipeline_runs(tmp_path: Path) -> None:
    """broker up, sub, publish-scan from the example capture, broker down: as the README has it."""
    need("mosquitto")
    environment = {**os.environ, "HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    program = [sys.executable, "-m", "mqttkit"]

    def run(*words: str) -> str:
        done = subprocess.run([*program, *words], capture_output=True, text=True, env=environment, cwd=ROOT)
        assert done.returncode == 0, done.stderr
        return done.stdout

    up, _, _, sub, publish, down = console_commands(ROOT / "README.md")[:6]
    run(*up, "--port", str(free_port()), "--backend", "process")
    try:
        run("pub", "-r", "-m", "first", "ble/raw/ready")  # comes as soon as the reader has subscribed
        count = ["-C", "413", "-W", "40"]
        with subprocess.Popen([*program, *sub, *count], stdout=subprocess.PIPE, text=True, env=environment) as reader:
            assert reader.stdout is not None
            assert reader.stdout.readline() == "ble/raw/ready first\n"
            run(*publish, "--speed", "max")
            lines = reader.stdout.read().splitlines()
    finally:
        run(*down)
    assert len(lines) == 412
    for line in lines:
        topic, _, payload = line.partition(" ")
        assert topic == f"ble/raw/scanner-01/{json.loads(payload)['mac_address']}"
