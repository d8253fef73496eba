"""`mqttkit completion`: the scripts, and what a shell offers after a tab."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from pathlib import Path

import pytest

from mqttkit.cli.completion.values import BROKER_SECONDS, INCOMPLETE, plain, topics
from mqttkit.cli.sub import sub
from tests.support.brokers import Mosquitto, free_port, need
from tests.support.commands import MQTTKIT, invoke
from tests.support.probe import Probe

pytestmark = pytest.mark.system


def offered(line: str, **environment: str) -> list[str]:
    """Return what bash offers at the end of a line, without the files."""
    words = line.split(" ")
    asked = {"COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1), "_MQTTKIT_COMPLETE": "bash_complete"}
    done = subprocess.run(
        MQTTKIT, env={**os.environ, **asked, **environment}, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stderr == ""
    return [value for kind, _, value in (line.partition(",") for line in done.stdout.splitlines()) if kind == "plain"]


def test_commands_options_and_choices_are_offered() -> None:
    assert offered("mqttkit rec") == ["record"]
    assert offered("mqttkit broker backup v") == ["verify"]
    assert "--retained-only" in offered("mqttkit sub --re")
    assert offered("mqttkit broker up --profile sm") == ["small"]
    assert offered("mqttkit node sensor --model hu") == ["humidity"]


def test_topics_come_from_the_broker(shared_broker: Mosquitto) -> None:
    """Retained topics that begin with the typed text are offered, for `pub`, `sub` and options."""
    port = str(shared_broker.port)
    with Probe(shared_broker.port) as probe:
        for topic in ("completion/kitchen/t", "completion/hall/t", "other-completion"):
            probe.publish(topic, b"x", retain=True)
    expected = ["completion/hall/t", "completion/kitchen/t"]
    for line in (f"mqttkit sub -p {port} completion/", f"mqttkit pub -p {port} -m x -t completion/"):
        assert _until_offered(line, expected) == expected
    assert _until_offered("mqttkit top completion/k", ["completion/kitchen/t"], MQTTKIT_PORT=port)


def _until_offered(line: str, expected: list[str], **environment: str) -> list[str]:
    """Return what is offered; ask again on a machine so busy that the broker sends nothing within the bound."""
    for _ in range(30):
        if (found := offered(line, **environment)) == expected:
            break
    return found


@pytest.mark.parametrize(
    "name", ["a\nfile,b", "a\tb", "a\x1b]0;b\x07", "a\u202eb", "a\\b", "-P", "~root", "=ls", "", "$SYS/a", "a=~b"]
)
def test_a_name_that_a_shell_or_terminal_interprets_is_not_plain(name: str) -> None:
    """Line feeds, escape sequences, reversed text, and names that look like an option or a home directory."""
    assert not plain(name)


def test_a_broker_that_does_not_answer_costs_a_bounded_time() -> None:
    """Nothing is offered and nothing is printed; the wait for the broker is bounded."""
    assert offered(f"mqttkit sub -p {free_port()} a") == []
    with socket.create_server(("127.0.0.1", 0)) as silent:
        context = sub.make_context("sub", ["-p", str(silent.getsockname()[1]), "a"], resilient_parsing=True)
        context.meta[INCOMPLETE] = "a"
        began = time.monotonic()
        assert topics(context) == []
        assert time.monotonic() - began < BROKER_SECONDS + 5


def test_brokers_and_users_are_offered(tmp_path: Path) -> None:
    """The names of `broker up`, and the users of that broker."""
    need("mosquitto")
    place = {"HOME": str(tmp_path), "XDG_STATE_HOME": str(tmp_path / "state")}
    environment = {**os.environ, **place}
    up = ["broker", "up", "--name", "site-7", "--backend", "process", "--port", "0"]
    subprocess.run([*MQTTKIT, *up], check=True, env=environment, capture_output=True)
    try:
        assert offered("mqttkit sub --broker s", **place) == ["site-7"]
        assert offered("mqttkit broker status --name ", **place) == ["site-7"]
        assert "mqttkit" in offered("mqttkit broker user remove --name site-7 ", **place)
    finally:
        subprocess.run([*MQTTKIT, "broker", "down", "--name", "site-7"], check=True, env=environment)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_is_printed_or_installed(shell: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The installed file is what is printed; bash and zsh may need a line in their own files."""
    monkeypatch.setenv("HOME", str(tmp_path))
    printed = invoke("completion", shell).stdout.decode()
    assert "_MQTTKIT_COMPLETE" in printed
    installed = invoke("completion", shell, "--install")
    assert installed.returncode == 0
    assert {"bash": b".bashrc", "zsh": b".zshrc", "fish": b"new shells"}[shell] in installed.stdout
    (path,) = (path for path in tmp_path.rglob("*mqttkit*") if path.is_file())
    assert path.read_text() == printed
