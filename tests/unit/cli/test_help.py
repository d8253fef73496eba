"""The help of commands: groups, rare options, topics."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from mqttkit import errors
from mqttkit.cli import COMMANDS, cli
from mqttkit.cli.help_topics import TOPICS
from mqttkit.cli.options.help import GROUPS, GroupedCommand


def run(*words: str) -> str:
    done = CliRunner().invoke(cli, list(words))
    assert done.exit_code == 0, done.output
    return done.stdout


def test_help_lists_options_in_groups_without_the_rare_ones() -> None:
    shown = run("sub", "--help")
    titles = re.findall(r"^(\w[^\n]*):$", shown, re.M)
    assert titles == ["Filters", "Output", "Stop conditions", "Broker", "Logging", "Help", "As in mosquitto's clients"]
    assert "--cafile" not in shown
    assert "--help-all" in shown


@pytest.mark.parametrize("name", ["sub", "pub", "top", "request", "node sensor"])
def test_help_all_lists_every_option_once(name: str) -> None:
    words = name.split()
    shown = run(*words, "--help-all")
    command: click.Command = cli
    for word in words:
        assert isinstance(command, click.Group)
        found = command.get_command(click.Context(command), word)
        assert found is not None
        command = found
    assert isinstance(command, GroupedCommand)
    for param in command.params:
        if isinstance(param, click.Option) and not param.hidden:
            assert len(re.findall(rf"^  .*{re.escape(param.opts[-1])}\b", shown, re.M)) >= 1, param.opts
    assert re.search(r"^  --help  ", shown, re.M)


def test_no_option_is_in_two_groups() -> None:
    names = [name for group in GROUPS.values() for name in group]
    assert len(names) == len(set(names))


def test_h_without_a_host_shows_the_help() -> None:
    assert run("sub", "-h") == run("sub", "--help")
    assert run("-h") == run("--help")
    assert run("broker", "-h") == run("broker", "--help")


def test_help_explains_topics() -> None:
    for name, text in TOPICS.items():
        assert run("help", name) == text + "\n"
        assert name not in COMMANDS
        assert name in run("--help").replace("\n", " ")
        assert all(len(line) <= 100 for line in text.splitlines())


def test_the_exit_codes_are_those_of_the_errors_and_of_the_readme() -> None:
    """Each exit code of an error, and each one that the README explains, is in the list."""
    listed = dict(re.findall(r"^  (\d+) +(.*)$", TOPICS["exit-codes"], re.M))
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.MqttkitError)]
    assert {str(kind.exit_code) for kind in kinds} <= set(listed)
    readme = (Path(__file__).parents[3] / "README.md").read_text()
    for code, words in re.findall(r"^\| (\d+) \| (.*?) \|$", readme, re.M):
        assert code in listed, (code, words)


COMMANDS_OF_GROUPS = ("retained", "config", "node")


def commands() -> list[tuple[str, ...]]:
    """Return the words of the commands whose help must have an example."""
    found: list[tuple[str, ...]] = [(name,) for name in ("pub", "sub", "top", "request", "respond", "expect", "replay")]
    for name in COMMANDS_OF_GROUPS:
        group = cli.get_command(click.Context(cli), name)
        assert isinstance(group, click.Group)
        found += [(name, each) for each in group.list_commands(click.Context(group))]
    return found


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_the_help_has_an_example_that_parses(words: tuple[str, ...]) -> None:
    command: click.Command = cli
    for word in words:
        assert isinstance(command, click.Group)
        found = command.get_command(click.Context(command), word)
        assert found is not None
        command = found
    examples = re.findall(rf"^ *mqttkit {' '.join(words)}( .*)?$", command.help or "", re.M)
    assert examples
    for example in examples:
        command.make_context(words[-1], shlex.split(example, comments=True)).close()
