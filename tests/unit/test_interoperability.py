"""The parts of tests/interoperability that need no broker."""

from __future__ import annotations

from pathlib import Path

from tests.interoperability.__main__ import tables
from tests.interoperability.features import FEATURES
from tests.interoperability.mosquitto_clients import calls_of, needs_mqtt_31

FILE = """
import sys
def do_test(text, proto_ver=4):
    pass
env = 1
do_test('a', proto_ver=3)
do_test('b')
if sys.platform != 'darwin':
    env = 2
    do_test('c', proto_ver=5)
"""


def test_each_call_of_a_file_becomes_a_program(tmp_path: Path) -> None:
    """It has what precedes the call, and no other call."""
    file = tmp_path / "02-sub.py"
    file.write_text(FILE)
    calls = list(calls_of(file))
    assert [call.text for call in calls] == ["do_test('a', proto_ver=3)", "do_test('b')", "do_test('c', proto_ver=5)"]
    assert [needs_mqtt_31(call) for call in calls] == [True, False, False]
    assert "do_test('b')" not in calls[2].program
    assert calls[2].program.endswith("env = 1\nenv = 2\ndo_test('c', proto_ver=5)")


def test_the_tables_name_what_was_skipped_and_why() -> None:
    """A broker that cannot be installed has a line, not a row."""
    found = {"name": "NATS", "version": "2", "nodes": 3, "settings": "", "date": "2026-01-11", "verify": "lost 0"}
    found |= {"features": dict.fromkeys(FEATURES, "yes"), "fail-over": "1 s"}
    text = tables({"nats-3": found, "amqtt": {"skipped": "no pip"}, "clients": {"gmqtt": {"version": "1", "5": "yes"}}})
    assert text["features"].splitlines()[2:] == [
        f"| NATS 2, 3 nodes |{' yes |' * len(FEATURES)}",
        "- amqtt: not installed here, no pip",
    ]
    assert text["faults"].splitlines()[-1] == "| NATS 2, 3 nodes | lost 0 | 1 s |"
    assert text["settings"].splitlines()[-1] == "| NATS 2, 3 nodes | - | 2026-01-11 |"
    assert text["clients"].splitlines()[-1] == "| gmqtt | 1 | yes | - |"
