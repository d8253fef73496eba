"""pub and sub where it gets rare: a terminal, the embedded broker, rights that end in mid-session."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from mqttkit.broker import temporary_broker
from mqttkit.testing.broker import TestBroker
from tests.support.brokers import Mosquitto, missing, mosquitto
from tests.support.clients import wait_until
from tests.support.commands import MQTTKIT, mqttkit, running, subscribed
from tests.support.probe import Probe
from tests.support.sockets import unread_at

pytestmark = pytest.mark.system

COLOUR = re.compile(rb"\x1b\[([0-9]+;)*3[0-9]m")


def read_terminal(controller: int) -> bytes:
    """Return everything that is written until the other side closes."""
    shown = b""
    with contextlib.suppress(OSError):  # EIO: the last process that had the terminal is gone
        while chunk := os.read(controller, 10_000):
            shown += chunk
    os.close(controller)
    return shown


def test_json_on_a_terminal_is_indented_and_coloured(shared_broker: TestBroker, topic: str) -> None:
    """On a terminal it is for eyes; NO_COLOR takes the colours away."""
    shown = {}
    for name, more in (("colour", {}), ("plain", {"NO_COLOR": "1"})):
        controller, terminal = pty.openpty()
        environment = {**os.environ, "TERM": "xterm-256color", **more}
        arguments = (topic, "--json", "-C", "1")
        with subscribed(shared_broker, *arguments, stdout=terminal, env=environment) as process:
            os.close(terminal)
            with Probe(shared_broker.port) as probe:
                probe.publish(topic, "é".encode())
            shown[name] = read_terminal(controller)
            assert process.wait(60) == 0
    assert COLOUR.search(shown["colour"]) and not COLOUR.search(shown["plain"])
    lines = re.sub(rb"\x1b\[[0-9;]*m", b"", shown["colour"]).splitlines()
    assert '  "payload": "é"'.encode() in lines
    assert json.loads(b"".join(lines))["topic"] == topic


def test_plain_payloads_on_a_terminal_stay_bytes(shared_broker: TestBroker, topic: str) -> None:
    """No colour and no rich for what is not JSON."""
    controller, terminal = pty.openpty()
    with subscribed(shared_broker, topic, "-v", "-C", "1", stdout=terminal) as process:
        os.close(terminal)
        with Probe(shared_broker.port) as probe:
            probe.publish(topic, b"x")
        assert read_terminal(controller) == f"{topic} x\r\n".encode()
        assert process.wait(60) == 0


def test_pretty_json_in_a_pipe_is_indented(shared_broker: TestBroker, topic: str) -> None:
    """--pretty is for pipes too, without colours."""
    with (
        subscribed(shared_broker, topic, "--json", "--pretty", "-C", "1") as process,
        Probe(shared_broker.port) as probe,
    ):
        probe.publish(topic, b"\xff")
        output, _ = process.communicate(timeout=60)
    assert b'\n  "payload_base64": "/w=="' in output and b"\x1b" not in output
    assert json.loads(output)["qos"] == 1


@pytest.fixture(scope="module")
def embedded() -> Iterator[tuple[int, dict[str, str]]]:
    """An embedded broker: its port, and the environment that logs in."""
    pytest.importorskip("iotcore")
    with temporary_broker("embedded") as profile:
        yield (
            profile.port,
            {
                **os.environ,
                "MQTTKIT_USERNAME": str(profile.username),
                "MQTTKIT_PASSWORD": str(profile.password),
            },
        )


@pytest.mark.parametrize("qos", ["0", "1", "2"])
def test_the_embedded_broker_takes_and_gives_retained_messages(
    embedded: tuple[int, dict[str, str]], topic: str, qos: str
) -> None:
    """rumqttd answers no UNSUBSCRIBE of a filter it does not know: pub and --retained-only end all the same."""
    port, environment = embedded
    lines = "\n".join(
        json.dumps({"topic": f"{topic}/{number}", "payload": "x", "retain": True}) for number in range(20)
    )
    sent = mqttkit("pub", "--json", "-q", qos, port=port, env=environment, stdin=lines.encode())
    assert (sent.returncode, sent.stderr) == (0, b"")
    got = mqttkit("sub", "--retained-only", "-q", qos, "-v", f"{topic}/#", port=port, env=environment)
    assert (got.returncode, got.stderr) == (0, b"")
    assert sorted(got.stdout.splitlines()) == sorted(f"{topic}/{number} x".encode() for number in range(20))


def test_nothing_retained_on_the_embedded_broker(embedded: tuple[int, dict[str, str]], topic: str) -> None:
    """And where nothing is retained it ends with 0 as well."""
    port, environment = embedded
    got = mqttkit("sub", "--retained-only", f"{topic}/#", port=port, env=environment)
    assert (got.returncode, got.stdout, got.stderr) == (0, b"", b"")


def dynamic_security(directory: Path, *, may_read: bool) -> tuple[str, str]:
    """Write rules that let everybody read everything, or all but secret/#; return lines of mosquitto.conf."""
    plugins = list(Path("/usr/lib").glob("*/mosquitto_dynamic_security.so"))
    if not plugins:
        missing("mosquitto's dynamic security plugin is not installed")
    names = ("publishClientSend", "publishClientReceive", "subscribe", "unsubscribe")
    denial = {"acltype": "subscribePattern", "topic": "secret/#", "priority": 1, "allow": may_read}
    rules = {
        "defaultACLAccess": dict.fromkeys(names, True),
        "anonymousGroup": "all",
        "groups": [{"groupname": "all", "roles": [{"rolename": "reader"}]}],
        "roles": [{"rolename": "reader", "acls": [denial]}],
    }
    path = directory / "rules.json"
    path.write_text(json.dumps(rules))
    return f"plugin {plugins[0]}", f"plugin_opt_config_file {path}"


def test_a_denied_subscription_is_5(tmp_path: Path) -> None:
    """One denied filter among others ends the command, and stderr names that filter."""
    with mosquitto(tmp_path, *dynamic_security(tmp_path, may_read=False)) as broker:
        for version in ("5", "311"):
            result = mqttkit("sub", "fine/#", "secret/x", "-V", version, port=broker.port)
            assert (result.returncode, result.stdout, result.stderr.count(b"\n")) == (5, b"", 1), result.stderr
            assert b"subscription to 'secret/x' denied" in result.stderr


def test_a_right_that_ends_while_the_broker_was_away_is_5(tmp_path: Path) -> None:
    """A subscriber that comes back and is denied its filter does not sit there in silence."""
    rules = dynamic_security(tmp_path, may_read=True)
    with mosquitto(tmp_path, *rules) as broker, subscribed(broker, "secret/#", "--quiet") as process:
        broker.stop()
        dynamic_security(tmp_path, may_read=False)
        broker.start()
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 5
    assert errors == b"mqttkit: subscription to 'secret/#' denied: not authorized\n"


def test_a_stream_ends_with_4_where_its_user_is_gone(tmp_path: Path, topic: str) -> None:
    """With --no-retry a lost connection ends the command at the next line."""
    with mosquitto(tmp_path) as broker:
        command = (*MQTTKIT, "pub", "-l", topic, "--no-retry", "-h", "127.0.0.1", "-p", str(broker.port))
        with running(command, stdin=-1) as process, Probe(broker.port) as probe:
            assert process.stdin is not None
            probe.subscribe(topic)
            process.stdin.write(b"one\n")
            probe.wait_for_messages(1)
            broker.stop(signal.SIGKILL)
            wait_until(lambda: process.poll() is not None or not process.stdin.write(b"two\n"))
            _, errors = process.communicate(timeout=60)
    assert process.returncode in (3, 6), errors


@pytest.mark.parametrize(
    ("command", "closed", "code"),
    [
        ("pub -l {topic}", "<&-", 1),
        ("pub -s {topic}", "<&-", 1),
        ("sub -C 1 {topic}/kept", ">&-", 1),
        ("sub -C 1 {topic}/kept", "2>&-", 0),
        ("pub -m x {topic}", "<&- >&- 2>&-", 0),
    ],
)
def test_a_closed_standard_stream_is_no_crash(
    shared_broker: TestBroker, topic: str, command: str, closed: str, code: int
) -> None:
    """What needs the stream says so in one line; what does not goes its way."""
    with Probe(shared_broker.port) as probe:
        probe.publish(f"{topic}/kept", b"kept", retain=True)
    line = f"{' '.join(MQTTKIT)} {command.format(topic=topic)} -h 127.0.0.1 -p {shared_broker.port} {closed}"
    with running(("bash", "-c", line)) as process:
        output, errors = process.communicate(timeout=60)
    assert process.returncode == code
    assert errors == (b"mqttkit: Bad file descriptor\n" if code else b"")
    assert output == (b"kept\n" if "2>&-" in closed and "kept" in command else b"")


def test_a_lost_message_is_told_while_the_stream_goes_on(broker: Mosquitto, topic: str) -> None:
    """A message under way when the connection ends is lost: stderr says so at once, and the exit code is 6."""
    command = (*MQTTKIT, "pub", "-l", "-q", "1", topic, "-h", "127.0.0.1", "-p", str(broker.port))
    with running(command, stdin=-1) as process:
        assert process.stdin is not None and process.stderr is not None
        process.stdin.write(b"one\n")
        wait_until(lambda: broker.log.count("Sending PUBACK to mqttkit-") == 1)
        broker.signal(signal.SIGSTOP)
        process.stdin.write(b"lost\n")
        wait_until(lambda: unread_at(broker.port) > 0)
        broker.stop(signal.SIGKILL)
        broker.start()
        wait_until(lambda: broker.log.count("as mqttkit-") == 2)
        process.stdin.write(b"two\n")
        wait_until(lambda: broker.log.count("Sending PUBACK to mqttkit-") == 2)
        process.stdin.write(b"three\n")
        wait_until(lambda: broker.log.count("Sending PUBACK to mqttkit-") == 3)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 6
    assert b"WARNING publisher: a message was not delivered, the first on topic" in errors
    assert errors.splitlines()[-1].startswith(b"mqttkit: 1 of 4 messages not delivered")
