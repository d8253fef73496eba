"""Long commands on a terminal show how far they are."""

from __future__ import annotations

import re
import socket
from pathlib import Path

import pytest

from tests.support.brokers import Mosquitto
from tests.support.scripted_broker import scripted_broker
from tests.support.terminals import Terminal, on_terminal
from tests.unit.client.harness import CONNACK_V5

pytestmark = pytest.mark.system

FILE_BYTES = 40_000_000
"""More than the buffers of a connection hold."""


def percentage(terminal: Terminal) -> int:
    """Wait for percentage and time left; return the percentage."""
    shown = re.search(rb"(\d+) %, \d+:\d\d left", terminal.wait_for(b" left", 60))
    assert shown is not None
    return int(shown[1])


def read_nothing(connection: socket.socket, _connect: bytes) -> bool:
    """Accept the client, and leave what it sends in the buffers."""
    connection.sendall(CONNACK_V5)
    return True


@pytest.mark.parametrize(
    "words",
    [
        "node sensor --duration 600",
        "bench roundtrip --rate 100 --duration 600",
        "pub -m x --repeat 100 --repeat-delay 0.2 t",
    ],
)
def test_the_percentage_is_shown(shared_broker: Mosquitto, words: str) -> None:
    """It appears while the command runs."""
    with on_terminal(*words.split(), port=shared_broker.port) as terminal:
        terminal.wait_for(b" %", 60)
        assert terminal.process.poll() is None


@pytest.mark.parametrize("qos", ["0", "1", "2"])
def test_pub_shows_how_much_of_a_large_file_was_sent(qos: str, tmp_path: Path) -> None:
    """The bytes count that the connection took: the broker reads none here."""
    path = tmp_path / "image"
    path.write_bytes(bytes(FILE_BYTES))
    with (
        scripted_broker(read_nothing) as broker,
        on_terminal("pub", "-q", qos, "-f", str(path), "t", port=broker.port) as terminal,
    ):
        assert 0 < percentage(terminal) < 100


def test_pub_shows_how_much_of_a_file_of_lines_was_read(tmp_path: Path) -> None:
    """The queue of the client is full before the end of the file."""
    path = tmp_path / "lines"
    path.write_bytes(b"line\n" * 1_000_000)
    with (
        path.open("rb") as lines,
        scripted_broker(read_nothing) as broker,
        on_terminal("pub", "-q", "0", "-l", "t", port=broker.port, stdin=lines) as terminal,
    ):
        assert 0 < percentage(terminal) < 100


def test_pub_shows_no_progress_of_a_short_message(tmp_path: Path) -> None:
    """While it waits for the acknowledgement, there is nothing to show."""
    with (
        scripted_broker(read_nothing) as broker,
        on_terminal("pub", "-m", "x", "-W", "2", "t", port=broker.port) as terminal,
    ):
        assert b"%" not in terminal.finish(60)
        assert terminal.process.returncode == 6
