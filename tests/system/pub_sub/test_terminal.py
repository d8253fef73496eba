"""What `sub`, `request` and tables print on a terminal: no control character from the network, and status lines."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from mqttkit.testing.broker import TestBroker
from tests.support.brokers import Mosquitto, mosquitto
from tests.support.commands import mqttkit
from tests.support.terminals import on_terminal

pytestmark = pytest.mark.system

EVIL = "\x1b[2J\x1b]0;title\x07\u202e\x9b1m"
STYLES = re.compile(rb"\x1b\[[\d;]*m")
ESCAPED = rb"\x1b[2J\x1b]0;title\x07\u202e\x9b1m"


@pytest.fixture
def evil(shared_broker: TestBroker, topic: str) -> Mosquitto:
    """Retain a payload full of control characters."""
    mqttkit("pub", "-r", "-m", EVIL, topic, port=shared_broker.port)
    return shared_broker


@pytest.mark.parametrize("options", [(), ("-v",), ("-F", "%t %p"), ("-N",)])
def test_control_characters_are_escaped(evil: Mosquitto, topic: str, options: tuple[str, ...]) -> None:
    with on_terminal("sub", "-C", "1", *options, topic, port=evil.port) as terminal:
        shown = terminal.finish()
    assert ESCAPED in shown
    assert not re.search(rb"[\x00-\x08\x0b\x0c\x0e-\x1f]", shown)


def test_raw_prints_the_bytes(evil: Mosquitto, topic: str) -> None:
    with on_terminal("sub", "--raw", "-C", "1", topic, port=evil.port) as terminal:
        assert EVIL.encode() in terminal.finish()


def test_a_pipe_gets_the_bytes(evil: Mosquitto, topic: str) -> None:
    assert mqttkit("sub", "-C", "1", topic, port=evil.port).stdout == EVIL.encode() + b"\n"


def test_json_shows_a_json_payload_as_json(shared_broker: TestBroker, topic: str) -> None:
    """The payload is an object, not text with escaped quotes; control characters in it stay JSON escapes."""
    mqttkit("pub", "-r", "-m", json.dumps({"a": [1, "\x9b"]}, ensure_ascii=False), topic, port=shared_broker.port)
    with on_terminal("sub", "--json", "--quiet", "-C", "1", topic, port=shared_broker.port) as terminal:
        shown = STYLES.sub(b"", terminal.finish())
    assert json.loads(shown)["payload"] == {"a": [1, "\x9b"]}
    assert rb"\u009b" in shown


def test_field_prints_one_value(shared_broker: TestBroker, topic: str) -> None:
    mqttkit("pub", "-r", "-m", '{"a":{"b":[1,"two"]}}', f"{topic}/1", port=shared_broker.port)
    mqttkit("pub", "-r", "-m", "text", f"{topic}/2", port=shared_broker.port)
    done = mqttkit("sub", "-v", "--field", "a.b.1", "--retained-only", f"{topic}/#", port=shared_broker.port)
    assert done.stdout.decode() == f"{topic}/1 two\n"
    assert b"not JSON" in done.stderr
    assert mqttkit("sub", "--field", "a", "--json", topic, port=shared_broker.port).returncode == 2


def test_sub_says_that_it_waits_and_that_it_is_back(tmp_path: Path) -> None:
    with mosquitto(tmp_path) as own, on_terminal("sub", "a", port=own.port) as terminal:
        terminal.wait_for(b"connected to 127.0.0.1:%d, waiting for messages" % own.port)
        own.stop()
        terminal.wait_for(b"WARNING client")
        own.start()
        shown = terminal.wait_for(b"connected again to 127.0.0.1:%d" % own.port)
        assert terminal.process.poll() is None
    assert shown.index(b"waiting for messages") < shown.index(b"WARNING client") < shown.index(b"connected again")


@pytest.mark.parametrize("columns", [60, 80])
def test_a_table_fits_the_terminal(shared_broker: TestBroker, topic: str, columns: int) -> None:
    mqttkit("pub", "-r", "-m", "1234567", f"{topic}/{'long' * 30}", port=shared_broker.port)
    with on_terminal("retained", "list", f"{topic}/#", port=shared_broker.port, columns=columns) as terminal:
        lines = STYLES.sub(b"", terminal.finish()).decode().splitlines()
    assert all(len(line) <= columns for line in lines)
    assert any("…" in line and line.endswith("7 │") for line in lines)


def test_doctor_continues_a_long_line_below_its_text(shared_broker: TestBroker) -> None:
    """A terminal would continue it in the middle of a word, at the left edge."""
    with on_terminal("doctor", port=shared_broker.port, columns=80) as terminal:
        lines = STYLES.sub(b"", terminal.finish(60)).decode().splitlines()
    assert all(len(line) <= 80 for line in lines if "->" not in line)
    first = next(index for index, line in enumerate(lines) if line.startswith("pass        capabilities"))
    assert lines[first + 1].startswith(" " * 32) and lines[first + 1].strip()
