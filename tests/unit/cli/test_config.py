"""`mqttkit config` as it is typed; the examples of docs/reference/config.md are run here."""

from __future__ import annotations

import json
import re
import stat
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from mqttkit.cli import cli
from mqttkit.config.schema import root
from tests.support.pages import find_page

PAGE = find_page("config.md")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: str) -> Result:
    """Run `mqttkit config ...`."""
    return CliRunner().invoke(cli, ["config", *arguments])


def test_init_check_and_show_go_together(here: Path) -> None:
    """What init writes is private, valid and gives the defaults."""
    written = run("init")
    assert (written.exit_code, written.stderr) == (0, "wrote mqttkit.yaml\n")
    assert stat.S_IMODE((here / "mqttkit.yaml").stat().st_mode) == 0o600
    assert run("check").stdout == "mqttkit.yaml: valid\n"
    rows = [json.loads(line) for line in run("show", "--json").stdout.splitlines()]
    assert [row["path"] for row in rows] == [leaf.path for leaf in root().leaves()]
    assert {row["origin"] for row in rows} == {"default"}


def test_init_replaces_nothing_unasked(here: Path) -> None:
    """A file that is there stays, byte for byte, unless --force."""
    (here / "a.yaml").write_text("mine")
    refused = run("init", "a.yaml")
    assert refused.exit_code == 2
    assert refused.stderr == "mqttkit: a.yaml: the file exists. Replace it: mqttkit config init --force a.yaml\n"
    assert (here / "a.yaml").read_text() == "mine"
    assert run("init", "--force", "a.yaml").exit_code == 0
    assert run("check", "a.yaml").exit_code == 0
    assert sorted(entry.name for entry in here.iterdir()) == ["a.yaml"]


def test_init_where_it_cannot_write_says_so() -> None:
    """One line, no traceback."""
    refused = run("init", "missing/a.yaml")
    assert refused.exit_code == 2
    assert refused.stderr == "mqttkit: missing/a.yaml: cannot write it: No such file or directory\n"


def test_check_without_a_file_names_the_command_that_writes_one() -> None:
    """Absent is fine for other commands, not for this one."""
    refused = run("check")
    assert (refused.exit_code, refused.stderr) == (
        2,
        "mqttkit: no settings file found. Write one: mqttkit config init\n",
    )


def test_check_names_file_line_and_path(here: Path) -> None:
    """The first thing that is wrong."""
    (here / "mqttkit.yaml").write_text("mqtt:\n  broker:\n    port: abc\n")
    refused = run("check")
    assert refused.exit_code == 2
    assert refused.stderr == "mqttkit: mqttkit.yaml:3: mqtt.broker.port: must be 1 to 65535, got 'abc'\n"


def test_show_tells_environment_file_and_profile(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The profile that `broker up` wrote counts as it does for every command; its password is masked."""
    profile = here / "state" / "mqttkit" / "brokers" / "default" / "profile.json"
    profile.parent.mkdir(parents=True)
    values = {"name": "default", "backend": "process", "host": "127.0.0.1", "port": 41883}
    profile.write_text(json.dumps({**values, "username": "edge", "password": "hunter2"}))
    monkeypatch.setenv("XDG_STATE_HOME", str(here / "state"))
    monkeypatch.setenv("MQTTKIT_SCANNER_ID", "scanner-07")
    shown = run("show").stdout
    assert re.search(r"(?m)^    port: 41883 +# profile$", shown)
    assert re.search(r"(?m)^  id: scanner-07 +# environment variable MQTTKIT_SCANNER_ID$", shown)
    assert "hunter2" not in shown


def example(language: str, number: int = 0) -> str:
    """Return a fenced block of the page."""
    blocks = re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(), re.DOTALL)
    return str(blocks[number])


def test_the_pages_file_is_valid(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The example file of docs/reference/config.md loads."""
    (here / "mqttkit.yaml").write_text(example("yaml"))
    monkeypatch.setenv("SITE", "7")
    (here / "password").write_text("x\n")
    checked = run("check")
    assert (checked.exit_code, checked.output) == (0, "mqttkit.yaml: valid\n")


def test_the_pages_commands_work(here: Path) -> None:
    """The example commands of docs/reference/config.md end with 0."""
    for line in example("sh").splitlines():
        words = line.removeprefix("mqttkit config ").split()
        assert run(*words).exit_code == 0, line


def test_the_pages_errors_are_the_real_ones(here: Path) -> None:
    """Each error that docs/reference/config.md quotes is what check prints for the file beside it."""
    for text, error in re.findall(r"```yaml bad\n(.*?)```\n+```text\n(.*?)```", PAGE.read_text(), re.DOTALL):
        (here / "mqttkit.yaml").write_text(text)
        assert run("check").stderr == error


def test_the_page_names_every_section() -> None:
    """A new section of settings is documented."""
    text = PAGE.read_text()
    for section in root().sections():
        assert not section.path or f"`{section.path}`" in text, section.path
