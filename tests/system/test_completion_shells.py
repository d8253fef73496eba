"""Completion in real shells: what a tab puts into the command line."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.brokers import Mosquitto, need
from tests.support.pages import reader_environment
from tests.support.probe import Probe
from tests.support.terminals import Terminal, terminal_of

pytestmark = pytest.mark.system

INTERPRETED = (
    *("$(touch run)", "`touch run`", ";touch run;", "|touch run", "a b", "*", "?c", "it's", 'say "no"', "{a,b}", "!1"),
    *("\\x", "a,b", "a=~b", "~root", "<c", ">c", "&", "(c)", "[c]", "^a"),
)
"""Topic levels in which some shell sees more than text."""
PLAIN = ("-x", "AA:BB:CC:01", "AA:BB:CE:02", "Küche", "a=b", "kitchen", "u@h")
"""Topic levels that a shell takes as they are; bash splits words at some of their characters."""

PROMPT = b"READY "
SAVE = "save() { printf '%s\\n' \"$@\" >words; echo sa''ved; }\nPS1='READY '\n"
STARTS = {
    "bash": 'eval "$(mqttkit completion bash)"\n' + SAVE,
    "zsh": """
        autoload -U compinit; compinit -u -d compdump; eval "$(mqttkit completion zsh)"
        zstyle ":completion:all-matches::::" completer _all_matches _complete
        zstyle ":completion:all-matches:*" insert yes
        zle -C all-matches complete-word _generic
        bindkey "^Xa" all-matches
    """
    + SAVE,
}
INSERT_ALL = {"bash": "\x1b*", "zsh": "\x18a"}
"""The keys that put every offered value into the command line."""
FIRST_COLUMN = "\x01"


@pytest.fixture
def environment(shared_broker: Mosquitto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Publish a retained message on each topic; make an empty home directory the working directory."""
    with Probe(shared_broker.port) as probe:
        for level in (*INTERPRETED, *PLAIN):
            probe.publish(f"shells/{level}", b"x", retain=True)
    monkeypatch.chdir(tmp_path)
    place = {"HOME": str(tmp_path), "ZDOTDIR": str(tmp_path), "LC_ALL": "C.UTF-8"}
    return {**reader_environment(tmp_path), **place, "MQTTKIT_PORT": str(shared_broker.port)}


@contextlib.contextmanager
def interactive(shell: str, environment: dict[str, str]) -> Iterator[Terminal]:
    """Run a shell that has loaded the completion script, in the working directory."""
    Path(".bashrc").write_text(STARTS[shell])
    Path(".zshrc").write_text(STARTS[shell])
    with terminal_of(["setsid", "--ctty", need(shell), "-i"], environment) as terminal:
        terminal.wait_for(PROMPT, seconds=60)
        yield terminal


def words_after(terminal: Terminal, line: str, keys: str, expected: list[str]) -> list[str]:
    """Type a line and keys, and return the words that a command then gets; again if the broker was too slow."""
    for _ in range(30):
        terminal.output = b""
        terminal.type(f"{line}{keys}{FIRST_COLUMN}save \r")
        terminal.wait_for(b"saved", seconds=60)
        terminal.output = terminal.output.partition(b"saved")[2]
        terminal.wait_for(PROMPT, seconds=60)
        if (words := Path("words").read_text().splitlines()) == expected:
            break
    return words


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_a_shell_takes_every_offered_topic_as_it_is(shell: str, environment: dict[str, str]) -> None:
    """Whoever may publish chooses topic names: no name runs a command, becomes several words or loses a character."""
    expected = ["mqttkit", "sub", *(f"shells/{level}" for level in PLAIN)]
    with interactive(shell, environment) as terminal:
        assert words_after(terminal, "mqttkit sub shells/", INSERT_ALL[shell], expected) == expected
    assert not Path("run").exists()


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_a_tab_completes_topics_beyond_colons_and_also_commands_options_and_files(
    shell: str, environment: dict[str, str]
) -> None:
    """Bash splits words at colons, equals signs and @."""
    Path("root.crt").touch()
    lines = {
        "mqttkit sub -t shells/AA:BB:CE": "mqttkit sub -t shells/AA:BB:CE:02",
        "mqttkit sub -t 'shells/AA:BB:CE": "mqttkit sub -t shells/AA:BB:CE:02",
        "mqttkit sub --topic=shells/AA:BB:CE": "mqttkit sub --topic=shells/AA:BB:CE:02",
        "mqttkit sub -t shells/u@": "mqttkit sub -t shells/u@h",
        "mqttkit su\t--caf\troo": "mqttkit sub --cafile root.crt",
    }
    with interactive(shell, environment) as terminal:
        completed = {line: words_after(terminal, line, "\t", words.split()) for line, words in lines.items()}
    assert completed == {line: words.split() for line, words in lines.items()}


def test_fish_offers_the_topics(environment: dict[str, str]) -> None:
    """Fish itself quotes what it puts into the command line."""
    script = 'mqttkit completion fish | source; complete -C "mqttkit sub shells/"'
    for _ in range(30):
        done = subprocess.run([need("fish"), "-c", script], env=environment, capture_output=True, text=True, check=True)
        if sorted(done.stdout.splitlines()) == sorted(f"shells/{level}" for level in PLAIN):
            break
    assert sorted(done.stdout.splitlines()) == sorted(f"shells/{level}" for level in PLAIN)
    assert done.stderr == ""
    assert not Path("run").exists()
