"""Several --sink options: what the commands of the bridge make of them."""

from __future__ import annotations

import dataclasses
from itertools import pairwise
from pathlib import Path

import click
import pytest
import yaml
from click.testing import CliRunner

from mqttkit.bridge.outputs.plan import plan_outputs
from mqttkit.bridge.sinks import sink_options
from mqttkit.bridge.sinks.types import HttpOptions, SinkOptions
from mqttkit.cli import cli
from mqttkit.cli.bridge.options import bridge_options
from mqttkit.cli.options.loading import load_without_broker
from mqttkit.errors import UsageError
from mqttkit.settings import Settings

TWO = ("--sink", "sqlite:a.db", "--sink", "jsonl:b")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty directory, without settings and brokers of the user."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path


def settings_of(*words: str) -> Settings:
    """Return what the options of a bridge that runs make of the words."""
    found: list[Settings] = []

    @click.command()
    @bridge_options
    def command() -> None:
        found.append(load_without_broker(None))

    command.main(list(words), standalone_mode=False)
    return found[0]


def test_each_of_several_sinks_is_an_output() -> None:
    """One --sink stays the bridge's own sink."""
    assert [output.name for output in plan_outputs(settings_of(*TWO))] == ["sqlite", "jsonl"]
    alone = settings_of("--sink", "sqlite:a.db").bridge
    assert (alone.sink, alone.outputs) == ("sqlite:a.db", ())


def test_sinks_replace_the_outputs_of_the_file(here: Path) -> None:
    """A single --sink chooses among them instead."""
    (here / "mqttkit.yaml").write_text("bridge: {outputs: [{sink: 'redis://h'}, {sink: 'sqlite:c.db'}]}\n")
    assert [output.name for output in plan_outputs(settings_of(*TWO))] == ["sqlite", "jsonl"]
    assert [output.name for output in plan_outputs(settings_of("--sink", "redis"))] == ["redis"]


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("--sink", "sqlite:a.db", "--sink", "sqlite:./a.db"), "two outputs store in the same place"),
        (("--sink", "sqlite:a.db", "--sink", "sqlite:b.db"), "two outputs have the name sqlite"),
        ((*TWO, "--table", "t"), r"bridge\.table applies to one sink"),
    ],
)
def test_sinks_that_would_disturb_each_other_are_an_error(words: tuple[str, ...], error: str) -> None:
    """The same sink twice, two of one kind, and an option that does not say which sink it is for."""
    with pytest.raises(UsageError, match=error):
        plan_outputs(settings_of(*words))


@pytest.mark.parametrize(
    "command",
    [
        ("bridge", "verify"),
        ("bridge", "worker", "--source", "redis://h"),
        ("bridge", "dead-letters", "list"),
        ("bridge", "tenant", "list"),
    ],
)
def test_other_commands_take_one_sink(command: tuple[str, ...]) -> None:
    """They used the last one and ignored the others."""
    result = CliRunner().invoke(cli, [*command, *TWO])
    assert result.exit_code == 2
    assert "--sink is given 2 times, and this command works on one sink" in result.output


def test_compose_passes_every_sink_on() -> None:
    """Sinks that cannot run together are an error before anything is printed."""
    compose = ["broker", "compose", "--with-bridge"]
    result = CliRunner().invoke(cli, [*compose, *TWO])
    command = yaml.safe_load(result.stdout)["services"]["mqttkit-default-bridge"]["command"]
    assert [after for word, after in pairwise(command) if word == "--sink"] == list(TWO[1::2])
    result = CliRunner().invoke(cli, [*compose, "--sink", "sqlite:a.db", "--sink", "sqlite:a.db"])
    assert (result.exit_code, result.stdout) == (2, "")
    assert "two outputs store in the same place" in result.output


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--keep", "30d", "--table", "iot.readings", "--columns", "value=v", "--no-hypertable"),
         {"keep": 2_592_000, "table": "iot.readings", "columns": "value=v", "hypertable": False}),
        (("--list", "queues:default", "--job", "Keep", "--job-format", "laravel", "--redis-durability", "replica"),
         {"list_name": "queues:default", "job": "Keep", "job_format": "laravel", "durability": "replica"}),
        (("--token-file", "t", "--http-headers-file", "h", "--http-username", "u", "--http-password-file", "p",
          "--http-ca-file", "a", "--http-cert-file", "c", "--http-key-file", "k", "--http-gzip"),
         {"http": HttpOptions(token_file="t", headers_file="h", user="u", password_file="p", ca_file="a", cert_file="c",
                              key_file="k", gzip=True)}),
    ],
)  # fmt: skip
def test_options_reach_the_sink(words: tuple[str, ...], expected: dict[str, object]) -> None:
    """Each option of the command line is the sink's option."""
    found = sink_options(settings_of("--sink", "sqlite:a.db", *words).bridge)
    assert found == dataclasses.replace(SinkOptions(timeout=found.timeout), **expected)  # type: ignore[arg-type]
