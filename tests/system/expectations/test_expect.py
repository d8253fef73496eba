"""`mqttkit expect` and `mqttkit wait-for-broker` on a real broker."""

from __future__ import annotations

import json
import sys
import threading
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from mqttkit.testing.broker import TestBroker
from tests.support.brokers import Mosquitto, free_port, mosquitto
from tests.support.commands import invoke

pytestmark = pytest.mark.system


def publisher(broker: Mosquitto, *messages: tuple[str, str], exit_code: int = 0) -> list[str]:
    """Return a command line that publishes: what a test in CI would start."""
    lines = [
        f"subprocess.run(['mosquitto_pub', '-p', '{broker.port}', '-q', '1', '-t', {topic!r}, '-m', {text!r}])"
        for topic, text in messages
    ]
    return ["--", sys.executable, "-c", "\n".join(("import subprocess, sys", *lines, f"sys.exit({exit_code})"))]


def test_a_command_is_started_after_the_subscription(shared_broker: TestBroker, topic: str) -> None:
    """Its first message is not missed; everything else is ignored."""
    address = ("-h", "127.0.0.1", "-p", str(shared_broker.port))
    command = publisher(shared_broker, (f"{topic}/a", "{}"), (f"{topic}/a", '{"state":"ready"}'))
    done = invoke("expect", f"{topic}/+", "--within", "20s", "--match", '.state == "ready"', *address, *command)
    assert (done.returncode, done.stderr) == (0, b"")


def test_wrong_messages_are_8_and_are_shown(shared_broker: TestBroker, topic: str, tmp_path: Path) -> None:
    """On stderr, as JSON and as JUnit XML."""
    address = ("-h", "127.0.0.1", "-p", str(shared_broker.port))
    command = publisher(shared_broker, (f"{topic}/a", '{"state":"off"}'), (f"{topic}/a", "\x1b[31m"))
    report = tmp_path / "report.xml"
    done = invoke(
        *("expect", f"{topic}/+", "--within", "5", "--match", '.state == "ready"', "--json", "--junit", str(report)),
        *address,
        *command,
    )
    assert done.returncode == 8
    text = done.stderr.decode()
    assert "0 matched, 2 did not" in text
    assert f'\'{topic}/a\' {{"state":"off"}}: .state == "ready" is false' in text
    assert "\x1b" not in text
    (found,) = json.loads(done.stdout)
    assert (found["ending"], found["others"]) == ("wrong", 2)
    assert ElementTree.parse(report).getroot().get("failures") == "1"


def test_nothing_at_all_is_27(shared_broker: TestBroker, topic: str) -> None:
    """After the time limit."""
    done = invoke("expect", f"{topic}/a", "--within", "300ms", port=shared_broker.port)
    assert done.returncode == 27
    assert "0 matched, 0 did not" in done.stderr.decode()


def test_steps_follow_each_other(shared_broker: TestBroker, topic: str) -> None:
    """--then looks only at what arrives after the step before it."""
    address = ("-h", "127.0.0.1", "-p", str(shared_broker.port))
    steps = (f"{topic}/a", "--payload", "one", "--within", "20", *address, "--then", f"{topic}/b", "--payload", "two")
    right = publisher(shared_broker, (f"{topic}/a", "one"), (f"{topic}/b", "two"))
    wrong = publisher(shared_broker, (f"{topic}/b", "two"), (f"{topic}/a", "one"))
    assert invoke("expect", *steps, *right).returncode == 0
    done = invoke("expect", *steps, "--within", "2", *wrong)
    assert done.returncode == 27
    assert f"on '{topic}/b'" in done.stderr.decode()


def test_none_passes_in_silence_and_fails_on_a_message(shared_broker: TestBroker, topic: str) -> None:
    """And shows the message."""
    address = ("-h", "127.0.0.1", "-p", str(shared_broker.port))
    assert invoke("expect", f"{topic}/a", "--none", "--within", "0.3", *address).returncode == 0
    done = invoke(
        *("expect", f"{topic}/a", "--none", "--within", "20", *address), *publisher(shared_broker, (f"{topic}/a", "x"))
    )
    assert done.returncode == 8
    assert "it must not arrive" in done.stderr.decode()


def test_a_failing_command_ends_it(shared_broker: TestBroker, topic: str) -> None:
    """With 1, long before the time limit."""
    address = ("-h", "127.0.0.1", "-p", str(shared_broker.port))
    done = invoke("expect", f"{topic}/a", "--within", "60", *address, *publisher(shared_broker, exit_code=3))
    assert done.returncode == 1
    assert "the command ended with 3" in done.stderr.decode()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("a", "--within", "soon"), "not a time"),
        (("a", "--match", ".a |||"), "not a jq program"),
        (("a", "--order"), "--order needs"),
        (("a", "--order", "--none", "--match", "."), "--order takes"),
        (("a#"), "a#"),
        (("a", "--then"), "FILTER"),
        (("a", "--", "/no/such/program"), "cannot run /no/such/program"),
    ],
)
def test_mistakes_are_usage_errors(shared_broker: TestBroker, arguments: tuple[str, ...], complaint: str) -> None:
    """Named, with exit code 2."""
    words = [arguments] if isinstance(arguments, str) else list(arguments)
    place = words.index("--") if "--" in words else words.index("--then") if "--then" in words else len(words)
    words[place:place] = ["-h", "127.0.0.1", "-p", str(shared_broker.port)]
    done = invoke("expect", *words)
    assert (done.returncode, complaint in done.stderr.decode()) == (2, True), done.stderr


def test_wait_for_broker_returns_when_it_answers(tmp_path: Path) -> None:
    """Before, it waits; without a broker it is 3."""
    broker = Mosquitto(tmp_path / "late")
    timer = threading.Timer(1.0, broker.start)
    timer.start()
    try:
        assert invoke("wait-for-broker", "-W", "30", port=broker.port).returncode == 0
    finally:
        timer.join()
        broker.stop()
    assert invoke("wait-for-broker", "-W", "0.5", port=free_port()).returncode == 3


def test_wait_for_broker_does_not_wait_for_a_refusal(tmp_path: Path) -> None:
    """A broker that refuses the login answers: 4."""
    with mosquitto(tmp_path / "closed", anonymous=False) as broker:
        assert invoke("wait-for-broker", "-W", "30", port=broker.port).returncode == 4
