"""The Python examples of README.md and docs/reference/python.md run, and name the whole public API."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import mqttkit
from mqttkit.broker.accounts.passwords import PasswordFile
from tests.support.brokers import Mosquitto, mosquitto, need
from tests.support.pages import ROOT, blocks, find_page

PAGE = find_page("python.md")


def run(code: str) -> list[str]:
    """Run an example and return the lines that it prints.

    A loop over messages ends after the first one, not after some seconds without any; other waits get a minute.
    """
    code = re.sub(r"(messages\(timeout=)\d+(\):\n)( +)(print\(.*\)\n)", r"\g<1>60\2\3\4\3break\n", code)
    code = re.sub(r"(timeout|wait)=5\b", r"\1=60", code)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "example", "exec"), {"__name__": "example"})  # our own pages
    return printed.getvalue().splitlines()


@pytest.fixture
def lamp_broker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Mosquitto]:
    """A broker with the user `lamp`, whose password is in ./lamp.secret."""
    monkeypatch.chdir(tmp_path)
    secret = Path("lamp.secret")
    secret.write_text("a secret\n")
    secret.chmod(0o600)
    users = Path("passwd")
    users.write_text(PasswordFile.parse("", where="passwd").with_user("lamp", "a secret").render())
    with mosquitto(tmp_path / "broker", f"password_file {users.resolve()}", anonymous=False) as broker:
        yield broker


@pytest.fixture(autouse=True)
def _without_docker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `temporary_broker` take the installed mosquitto."""
    need("mosquitto")
    monkeypatch.setenv("DOCKER_HOST", "unix:///nonexistent/docker.sock")


@pytest.mark.parametrize("path", [ROOT / "README.md", PAGE], ids=lambda path: path.name)
def test_the_first_example_of_a_page_publishes_and_receives(path: Path, lamp_broker: Mosquitto) -> None:
    """The example logs in with a password file and prints its own message."""
    code = blocks(path, "python")[0]
    code = code.replace("mqtt://localhost", f"mqtt://localhost:{lamp_broker.port}")
    assert run(code) == ["sensor/1 21.5"]


EXPECTED = [
    [r"127\.0\.0\.1 \d+ \w+"],
    ["lamp True"],
    ["BrokerSettings.port: must be 1 to 65535, got 0"],
    ["True"],
    [r"True 3 \[<Outcome.ACKNOWLEDGED: 'acknowledged'>(, <Outcome.ACKNOWLEDGED: 'acknowledged'>){2}\]"],
    ["sensor/1 21.5 b'21.5' False"],
    ["1"],
    ["sensor/1 21.5"],
    [
        "tcp Start one with: mqttkit broker up",
        "a broker's URL is .*, got 'http://localhost'",
        "topic name 'sensor/#' has a wildcard.*",
    ],
]


@pytest.mark.parametrize("number", range(len(EXPECTED)))
def test_each_further_example_prints_what_it_promises(number: int) -> None:
    """Examples run against brokers that they start themselves."""
    printed = run(blocks(PAGE, "python")[1 + number])
    assert len(printed) == len(EXPECTED[number]), printed
    for line, pattern in zip(printed, EXPECTED[number], strict=True):
        assert re.fullmatch(pattern, line), line


def test_each_example_is_tested() -> None:
    """A new example needs a row above."""
    assert len(blocks(PAGE, "python")) == 1 + len(EXPECTED)


def test_the_page_uses_every_public_name() -> None:
    """A name that no example uses is not documented."""
    used = set(re.findall(r"mqttkit\.(\w+)", "\n".join(blocks(PAGE, "python"))))
    assert used == set(mqttkit.__all__)
