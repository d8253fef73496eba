"""The help of commands: groups, rare options, topics."""

from __future__ import annotations

import re
import shlex

import click
import pytest
from click.testing import CliRunner

from mqttkit import errors
from mqttkit.bridge.service import EX_TEMPFAIL
from mqttkit.bridge.session import SESSION_SECONDS
from mqttkit.cli import COMMANDS, cli
from mqttkit.cli.controller import keys
from mqttkit.cli.help_topics import TOPICS
from mqttkit.cli.options.help import GROUPS, GroupedCommand
from mqttkit.controller.security.keys import ROLES


def run(*words: str) -> str:
    done = CliRunner().invoke(cli, list(words))
    assert done.exit_code == 0, done.output
    return done.stdout


def every_command() -> list[tuple[str, ...]]:
    """Return the words of every command that is not a group, without `mqttkit`."""
    found: list[tuple[str, ...]] = []

    def walk(command: click.Command, words: tuple[str, ...]) -> None:
        if isinstance(command, click.Group):
            context = click.Context(command)
            for name in command.list_commands(context):
                walk(command.get_command(context, name) or command, (*words, name))
        else:
            found.append(words)

    walk(cli, ())
    return found


EVERY_COMMAND = every_command()


def command_at(words: tuple[str, ...]) -> click.Command:
    """Return the command that these words name."""
    command: click.Command = cli
    for word in words:
        assert isinstance(command, click.Group)
        found = command.get_command(click.Context(command), word)
        assert found is not None
        command = found
    return command


def test_help_lists_options_in_groups_without_the_rare_ones() -> None:
    shown = run("sub", "--help")
    titles = re.findall(r"^(\w[^\n]*):$", shown, re.M)
    assert titles == ["Filters", "Output", "Stop conditions", "Broker", "Logging", "Help", "As in mosquitto's clients"]
    assert "--cafile" not in shown
    assert "--help-all" in shown


@pytest.mark.parametrize("name", ["sub", "pub", "top", "web", "request", "node sensor"])
def test_help_all_lists_every_option_once(name: str) -> None:
    """Each at the start of its line, in one group."""
    words = tuple(name.split())
    shown = run(*words, "--help-all")
    command = command_at(words)
    assert isinstance(command, GroupedCommand)
    for param in command.get_params(click.Context(command)):
        if isinstance(param, click.Option) and not param.hidden:
            record = param.get_help_record(click.Context(command))
            assert record is not None
            assert len(re.findall(rf"^  {re.escape(record[0])}(?:  |$)", shown, re.M)) == 1, record


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


def test_the_exit_codes_are_those_of_the_errors() -> None:
    """Each exit code of an error is in the list, and that of a bridge that must be restarted."""
    listed = dict(re.findall(r"^  (\d+) +(.*)$", TOPICS["exit-codes"], re.M))
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.MqttkitError)]
    assert {str(EX_TEMPFAIL), *(str(kind.exit_code) for kind in kinds)} <= set(listed)


@pytest.mark.parametrize("words", EVERY_COMMAND, ids=" ".join)
def test_the_help_has_an_example_that_parses(words: tuple[str, ...]) -> None:
    """Each command shows at least one line that a user can type."""
    command = command_at(words)
    typed = " ".join(word for word in words if word != "filters")
    examples = re.findall(rf"^ *(?:.*\| )?mqttkit {typed}( .*)?$", command.help or "", re.M)
    assert examples
    for example in examples:
        arguments = shlex.split(re.split(r" [|>&]", example)[0], comments=True)
        command.make_context(words[-1], arguments).close()


@pytest.mark.parametrize("words", EVERY_COMMAND, ids=" ".join)
def test_each_value_has_a_name_that_means_something(words: tuple[str, ...]) -> None:
    """The help shows PORT or SECONDS, not Click's names for its types; each option is explained."""
    command = command_at(words)
    context = click.Context(command)
    for param in command.get_params(context):
        if isinstance(param, click.Option) and not param.hidden:
            shown = param.get_help_record(context)
            assert shown is not None
            assert not re.search(r"\b(INTEGER|FLOAT|PATH|FILENAME|RANGE)\b|%Y|<=", shown[0]), shown[0]
            assert "TEXT" not in shown[0] or param.metavar or not isinstance(param.type, click.types.StringParamType)
            assert len(shown[1]) >= 5, shown


@pytest.mark.parametrize("words", EVERY_COMMAND, ids=" ".join)
def test_each_default_shown_is_the_real_one(words: tuple[str, ...]) -> None:
    """A number in square brackets at the end of an option's help is the default of the option."""
    command = command_at(words)
    for param in command.params:
        if isinstance(param, click.Option) and param.expose_value and not param.multiple:
            shown = re.search(r"  \[(\d[\d,]*(?:\.\d+)?)[^.\]]*\]$", param.help or "")
            if shown and isinstance(param.default, (int, float, str)):
                assert float(shown[1].replace(",", "")) == float(param.default), param.opts


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("pub", "1; with -l 1 for the first line, then 0"),
        ("sub", "0; 2 with --json"),
        ("record filters", "2"),
        ("node sensor", "1"),
        ("request", "1"),
        ("top", "0"),
    ],
)
def test_the_default_qos_is_shown(name: str, shown: str) -> None:
    """The help of -q differs, because the commands do."""
    (qos,) = (param for param in command_at(tuple(name.split())).params if "--qos" in param.opts)
    assert isinstance(qos, click.Option)
    assert (qos.help or "").endswith(f"  [{shown}]")


def test_the_session_of_the_bridge_is_described() -> None:
    """It has a stored identifier and a session of 7 days, whatever the general defaults are."""
    shown = " ".join(run("bridge", "run", "--help-all").split())
    assert "Client identifier. [created once and stored]" in shown
    assert f"(MQTT 5). [{SESSION_SECONDS}]" in shown
    assert "--disable-clean-session" not in shown


def test_a_fixed_qos_is_not_offered() -> None:
    """Commands that choose the QoS themselves do not list -q."""
    for name in ("controller local", "bridge run", "doctor", "retained list"):
        assert "--qos" not in run(*name.split(), "--help-all")


@pytest.mark.parametrize("words", [words[:1] for words in EVERY_COMMAND] + EVERY_COMMAND, ids=" ".join)
def test_h_shows_the_help_of_every_command(words: tuple[str, ...]) -> None:
    """-h as the last word is a question, never an error."""
    assert run(*words, "-h").startswith("Usage: ")


def test_the_roles_offered_are_those_of_keys() -> None:
    """The command names the roles itself, so that its help does not import the library for signatures."""
    assert keys.ROLES == ROLES


ACTIONS = (
    *("activate", "add", "check", "client", "completion", "compose", "cut", "down", "edit", "export", "generate"),
    *("grant", "import", "init", "leave", "merge", "passwd", "publish", "purge", "reload", "remove", "renew", "reset"),
    *("retire", "retry", "revoke", "rotate", "server", "set", "snapshot", "test", "wait-for-broker"),
)
"""Last words of commands that change or write something, or answer with their exit code."""
SERVICES = (
    *("bridge dev", "bridge run", "bridge worker", "controller simulate", "node run", "node sensor", "proxy"),
    *("publish-scan", "respond", "web"),
)
"""They run until they are ended, and print only what a person wants to see meanwhile."""
ONLY_JSON = (
    *("bridge dead-letters show", "controller decode", "controller global", "controller local", "controller regional"),
    "controller request",
)
"""They print nothing but JSON."""


@pytest.mark.parametrize("words", EVERY_COMMAND, ids=" ".join)
def test_a_command_that_prints_results_has_json(words: tuple[str, ...]) -> None:
    """Programs can read each result: a new command has --json, or stands above."""
    has_json = any("--json" in param.opts for param in command_at(words).params)
    assert has_json or words[-1] in ACTIONS or " ".join(words) in (*SERVICES, *ONLY_JSON)
