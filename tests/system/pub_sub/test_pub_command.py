"""`mqttkit pub` as a process: payloads, streams, the truth about outcomes, secrets."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from paho.mqtt.properties import Properties as PahoProperties

from mqttkit.testing.broker import TestBroker
from tests.support.brokers import Mosquitto, free_port, mosquitto
from tests.support.clients import wait_until
from tests.support.commands import MQTTKIT, mqttkit, running
from tests.support.probe import Probe
from tests.support.scripted_broker import scripted_broker

pytestmark = pytest.mark.system

BINARY = bytes(range(256)) + b"\n\r\n\0\xff"


@contextlib.contextmanager
def listening(broker: Mosquitto, topic_filter: str) -> Iterator[Probe]:
    """Run a subscriber at QoS 2."""
    with Probe(broker.port) as probe:
        probe.subscribe(topic_filter, 2)
        yield probe


def payloads(probe: Probe, count: int) -> list[bytes]:
    """Return the payloads of the first `count` messages once they came."""
    return [bytes(message.payload) for message in probe.wait_for_messages(count)]


@pytest.mark.parametrize(
    ("arguments", "stdin", "wanted"),
    [
        (("-m", "héllo"), b"", ["héllo".encode()]),
        (("-m", ""), b"", [b""]),
        (("-n",), b"", [b""]),
        (("-s",), BINARY, [BINARY]),
        (("-f", "FILE"), b"", [BINARY]),
        (("-l",), b"a\n\nb\r\n\xff\nlast", [b"a", b"", b"b\r", b"\xff", b"last"]),
        (("-l",), b"a\nb\n", [b"a", b"b"]),
        (("-m", "x", "--repeat", "3"), b"", [b"x"] * 3),
        (("-m", "{{n}}", "--repeat", "3"), b"", [b"1", b"2", b"3"]),
        (("-m", "x", "--repeat", "2", "--repeat-delay", "0.01"), b"", [b"x"] * 2),
    ],
)
def test_payload_bytes_leave_as_they_are(
    shared_broker: TestBroker, topic: str, tmp_path: Path, arguments: tuple[str, ...], stdin: bytes, wanted: list[bytes]
) -> None:
    """Each way to say the payload sends exactly those bytes."""
    (tmp_path / "file").write_bytes(BINARY)
    given = [str(tmp_path / "file") if argument == "FILE" else argument for argument in arguments]
    with listening(shared_broker, topic) as probe:
        result = mqttkit("pub", *given, topic, port=shared_broker.port, stdin=stdin)
        assert (result.returncode, result.stdout, result.stderr) == (0, b"", b"")
        assert payloads(probe, len(wanted)) == wanted


@pytest.mark.parametrize("qos", [0, 1, 2])
def test_qos_and_retain_are_as_asked(shared_broker: TestBroker, topic: str, qos: int) -> None:
    """-q and -r reach the broker."""
    result = mqttkit("pub", "-m", "x", "-q", str(qos), "-r", topic, port=shared_broker.port)
    assert (result.returncode, result.stderr) == (0, b"")
    with listening(shared_broker, topic) as probe:
        message = probe.wait_for_messages(1)[0]
    assert (message.qos, message.retain) == (qos, True)


def test_without_q_a_lone_message_goes_at_qos_1(shared_broker: TestBroker, topic: str) -> None:
    """The broker answers only what goes at QoS 1: so goes a lone message, and the first line of -l."""
    with listening(shared_broker, topic) as probe:
        assert mqttkit("pub", "-m", "x", topic, port=shared_broker.port).returncode == 0
        assert mqttkit("pub", "-l", topic, port=shared_broker.port, stdin=b"1\n2\n3\n").returncode == 0
        assert [message.qos for message in probe.wait_for_messages(4)] == [1, 1, 0, 0]


def test_properties_are_sent(shared_broker: TestBroker, topic: str) -> None:
    """Each property option reaches the subscriber."""
    options = (
        *("--content-type", "a/b", "--response-topic", "r", "--correlation-data", "c", "--expiry", "60", "--utf8"),
        *("--user-property", "k", "v", "--user-property", "k", "w"),
    )
    with listening(shared_broker, topic) as probe:
        assert mqttkit("pub", "-m", "x", *options, topic, port=shared_broker.port).returncode == 0
        found = probe.wait_for_messages(1)[0].properties
    assert isinstance(found, PahoProperties)
    assert found.json() == {
        "ContentType": "a/b",
        "ResponseTopic": "r",
        "CorrelationData": b"c".hex(),
        "MessageExpiryInterval": 60,
        "PayloadFormatIndicator": 1,
        "UserProperty": [("k", "v"), ("k", "w")],
    }


def test_each_line_leaves_when_it_is_read(shared_broker: TestBroker, topic: str) -> None:
    """A producer that writes a line and waits sees it arrive before the next one."""
    command = (*MQTTKIT, "pub", "-l", topic, "-h", "127.0.0.1", "-p", str(shared_broker.port))
    with listening(shared_broker, topic) as probe, running(command, stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        for number in range(4):
            process.stdin.write(b"line %d\n" % number)
            assert payloads(probe, number + 1)[-1] == b"line %d" % number
        process.stdin.close()
        assert process.wait(60) == 0


def peak_memory(broker: Mosquitto, topic: str, lines: int) -> int:
    """Return the most memory, in KiB, that `pub -l` took for so many lines."""
    producer = f"import sys; [sys.stdout.write(f'{{n}} {'x' * 100}\\n') for n in range({lines})]"
    with running((sys.executable, "-c", producer)) as source:
        command = (*MQTTKIT, "pub", "-l", topic, "-h", "127.0.0.1", "-p", str(broker.port))
        with subprocess.Popen(command, stdin=source.stdout) as process:
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return usage.ru_maxrss


def test_many_lines_take_no_more_memory_than_a_few(shared_broker: TestBroker, topic: str) -> None:
    """Lines of more than 30 MB wait in the pipe, not in memory."""
    few = peak_memory(shared_broker, topic, 20_000)
    many = peak_memory(shared_broker, topic, 300_000)
    assert many < few + 10_000


@pytest.fixture
def fenced(tmp_path: Path) -> Iterator[Mosquitto]:
    """A broker where everybody may write to open/# and nothing else."""
    rules = tmp_path / "acl"
    rules.write_text("topic readwrite open/#\n")
    rules.chmod(0o600)
    with mosquitto(tmp_path / "fenced", f"acl_file {rules}") as broker:
        yield broker


@pytest.mark.parametrize(
    "arguments", [("-m", "x"), ("-m", "x", "-q", "1"), ("-m", "x", "-q", "2"), ("-n", "-r"), ("-l",), ("-l", "-q", "1")]
)
def test_a_denied_publish_is_6(fenced: Mosquitto, arguments: tuple[str, ...]) -> None:
    """The broker's denial ends the command, in one line that names the topic and the reason."""
    result = mqttkit("pub", *arguments, "closed/topic", port=fenced.port, stdin=b"1\n2\n")
    assert (result.returncode, result.stdout, result.stderr.count(b"\n")) == (6, b"", 1)
    assert result.stderr.startswith(b"mqttkit: publish to 'closed/topic' denied: not authorized")


@pytest.mark.parametrize("more", [(), ("-q", "1")])
def test_a_denial_ends_a_stream_while_its_producer_waits(fenced: Mosquitto, more: tuple[str, ...]) -> None:
    """The first denied line ends the command, although stdin stays open and silent."""
    command = (*MQTTKIT, "pub", "-l", *more, "closed", "-h", "127.0.0.1", "-p", str(fenced.port))
    with running(command, stdin=subprocess.PIPE) as process:
        assert process.stdin is not None and process.stderr is not None
        process.stdin.write(b"one\n")
        assert process.wait(60) == 6
        assert process.stderr.read().startswith(b"mqttkit: publish to 'closed' denied")


def test_a_denied_line_of_json_says_what_was_delivered(fenced: Mosquitto) -> None:
    """The lines before the denied one arrived, and stderr counts them."""
    lines = [{"topic": topic, "payload": "x", "qos": 1} for topic in ("open/1", "open/2", "closed", "open/3")]
    stdin = "\n".join(map(json.dumps, lines)).encode()
    with listening(fenced, "open/#") as probe:
        result = mqttkit("pub", "--json", port=fenced.port, stdin=stdin)
        assert result.returncode == 6
        assert b"publish to 'closed' denied" in result.stderr
        assert b"2 earlier messages were delivered" in result.stderr
        assert len(payloads(probe, 2)) >= 2


def test_a_broker_that_hangs_up_on_qos_0_is_6(topic: str) -> None:
    """Some brokers answer a denied publish by closing the connection: that is not success."""

    def hang_up(connection: socket.socket, _connect: bytes) -> bool:
        connection.sendall(bytes((0x20, 3, 0, 0, 0)))
        assert connection.recv(4096)[0] == 0x30
        return False

    with scripted_broker(hang_up) as broker:
        result = mqttkit("pub", "-q", "0", "-m", "x", "-V", "5", topic, port=broker.port)
    assert (result.returncode, result.stderr.count(b"\n")) == (6, 1)
    assert b"delivery not confirmed" in result.stderr


def test_no_acknowledgement_is_6(broker: Mosquitto, topic: str) -> None:
    """A broker that stops answering is waited for only as long as -W says."""
    command = (*MQTTKIT, "pub", "-l", "-q", "1", "-W", "0.5", topic, "-h", "127.0.0.1", "-p", str(broker.port))
    with listening(broker, topic) as probe, running(command, stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        process.stdin.write(b"one\n")
        assert payloads(probe, 1) == [b"one"]
        wait_until(lambda: "Sending PUBACK to mqttkit-" in broker.log)
        broker.signal(signal.SIGSTOP)
        process.stdin.write(b"two\n")
        _, errors = process.communicate(timeout=60)
        broker.signal(signal.SIGCONT)
    assert process.returncode == 6
    assert b"1 of 2 messages not acknowledged within 0.5 s" in errors


def test_a_stream_goes_on_after_the_broker_was_away(broker: Mosquitto, topic: str) -> None:
    """Lines read while the broker is away wait for it."""
    command = (*MQTTKIT, "pub", "-l", "-q", "1", topic, "-h", "127.0.0.1", "-p", str(broker.port))
    with running(command, stdin=subprocess.PIPE) as process:
        assert process.stdin is not None and process.stderr is not None
        with listening(broker, topic) as probe:
            process.stdin.write(b"before\n")
            assert payloads(probe, 1) == [b"before"]
            wait_until(lambda: broker.log.count("Sending PUBACK") == 1)
        broker.stop()
        assert any(b"lost the connection" in line for line in process.stderr)  # what was under way then would be lost
        process.stdin.write(b"meanwhile\n")
        broker.start()
        wait_until(lambda: "as mqttkit-" in broker.log.rpartition("terminating")[2])
        process.stdin.write(b"after\n")
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors


def test_an_interrupted_stream_is_130(shared_broker: TestBroker, topic: str) -> None:
    """SIGINT and SIGTERM end a stream; what was read before has left."""
    for number in (signal.SIGINT, signal.SIGTERM):
        command = (*MQTTKIT, "pub", "-l", topic, "-h", "127.0.0.1", "-p", str(shared_broker.port))
        with listening(shared_broker, topic) as probe, running(command, stdin=subprocess.PIPE) as process:
            assert process.stdin is not None
            for count, line in enumerate((b"one", b"two", b"three"), 1):
                process.stdin.write(line + b"\n")
                assert payloads(probe, count)[-1] == line
            process.send_signal(number)
            assert process.wait(60) == 130
            assert process.stderr is not None
            errors = process.stderr.read()
            # the subscriber may have the last one before `pub` has noted that it is sent
            assert re.fullmatch(rb"mqttkit: interrupted: [23] messages published\n", errors), errors


def test_a_wrong_line_of_json_is_named_and_those_before_it_arrive(shared_broker: TestBroker, topic: str) -> None:
    """The first bad line ends the command with 2; everything before it is delivered, nothing after it."""
    good = json.dumps({"topic": topic, "payload": "x"})
    with listening(shared_broker, topic) as probe:
        stdin = f"{good}\n{good}\n{{}}\n{good}\n".encode()
        result = mqttkit("pub", "--json", port=shared_broker.port, stdin=stdin)
        assert (result.returncode, result.stderr.count(b"\n")) == (2, 1)
        assert b"line 3 of stdin: topic or topic_base64 is required" in result.stderr
        probe.publish(topic, b"end")
        assert payloads(probe, 3) == [b"x", b"x", b"end"]


def test_json_lines_take_what_they_leave_out_from_the_options(shared_broker: TestBroker, topic: str) -> None:
    """Topic, QoS and retain of the command hold for lines that say nothing of them."""
    with listening(shared_broker, f"{topic}/#") as probe:
        stdin = json.dumps({"payload": "1"}) + "\n" + json.dumps({"topic": f"{topic}/b", "payload": "2", "qos": 0})
        arguments = ("pub", "--json", "-q", "2", f"{topic}/a")
        assert mqttkit(*arguments, port=shared_broker.port, stdin=stdin.encode()).returncode == 0
        found = [(message.topic, message.qos) for message in probe.wait_for_messages(2)]
    assert sorted(found) == [(f"{topic}/a", 2), (f"{topic}/b", 0)]


def test_properties_over_mqtt_3_1_1_are_warned_of(shared_broker: TestBroker, topic: str) -> None:
    """What the protocol cannot carry is said, once."""
    line = json.dumps({"topic": topic, "payload": "x", "properties": {"content_type": "a"}}) + "\n"
    result = mqttkit("pub", "--json", "-V", "311", port=shared_broker.port, stdin=line.encode() * 2)
    assert result.returncode == 0
    assert result.stderr.count(b"no properties: messages go without them") == 1


def test_an_unreachable_broker_is_3(topic: str) -> None:
    """One line, for one message and for a stream."""
    for arguments in (("-m", "x"), ("-l",)):
        result = mqttkit("pub", *arguments, topic, port=free_port())
        assert (result.returncode, result.stderr.count(b"\n")) == (3, 1)
        assert b"connection refused" in result.stderr


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mosquitto]:
    """A broker with one user, kim, whose password is `s:e/c@ret`."""
    directory = tmp_path_factory.mktemp("locked")
    passwords = directory / "passwords"
    passwords.touch(0o600)
    subprocess.run(["mosquitto_passwd", "-b", str(passwords), "kim", "s:e/c@ret"], check=True)
    with mosquitto(directory / "broker", f"password_file {passwords}", anonymous=False) as broker:
        yield broker


def test_a_refused_connection_is_4(locked: Mosquitto, topic: str) -> None:
    """A wrong password and none at all, each in one line."""
    for arguments in ((), ("-u", "kim", "-P", "wrong")):
        result = mqttkit("pub", "-m", "x", topic, *arguments, port=locked.port)
        assert (result.returncode, result.stderr.count(b"\n")) == (4, 1)
        assert b"refused the connection" in result.stderr


def test_a_password_need_not_be_on_the_command_line(locked: Mosquitto, topic: str, tmp_path: Path) -> None:
    """--password-file and MQTTKIT_PASSWORD are taken; -L takes an escaped one."""
    secret = tmp_path / "secret"
    secret.write_text("s:e/c@ret\n")
    secret.chmod(0o600)
    from_file = mqttkit("pub", "-m", "x", topic, "-u", "kim", "--password-file", str(secret), port=locked.port)
    environment = {**os.environ, "MQTTKIT_PASSWORD": "s:e/c@ret"}
    from_environment = mqttkit("pub", "-m", "x", topic, "-u", "kim", port=locked.port, env=environment)
    url = f"mqtt://kim:s%3Ae%2Fc%40ret@127.0.0.1:{locked.port}/{topic}"
    from_url = mqttkit("pub", "-m", "x", "-L", url)
    for result in (from_file, from_environment, from_url):
        assert (result.returncode, result.stderr) == (0, b"")


def test_a_dash_asks_for_the_password(locked: Mosquitto, topic: str) -> None:
    """`-P -` prompts on the terminal, and does not show what is typed."""
    controller, terminal = pty.openpty()
    command = (*MQTTKIT, "pub", "-m", "x", topic, "-u", "kim", "-P", "-", "-h", "127.0.0.1", "-p", str(locked.port))
    with running(command, stdin=terminal, stdout=terminal, stderr=terminal, start_new_session=True) as process:
        os.close(terminal)
        shown = b""
        while b"Password" not in shown:
            shown += os.read(controller, 1000)
        os.write(controller, b"s:e/c@ret\n")
        with contextlib.suppress(OSError):
            while chunk := os.read(controller, 1000):
                shown += chunk
        assert process.wait(60) == 0, shown
    os.close(controller)
    assert b"s:e/c@ret" not in shown


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("t",), b"nothing to publish: give -m, -f, -s, -l, -n or --json"),
        (("-m", "x", "-n", "t"), b"one of -m, -f, -s, -l, -n and --json"),
        (("-m", "x"), b"no topic. Example"),
        (("-m", "x", "a/#"), b"has a wildcard"),
        (("-m", "x", "a", "-t", "b"), b"pub takes one topic"),
        (("-f", "/no/such/file", "t"), b"cannot read /no/such/file: No such file or directory"),
        (("-f", "/", "t"), b"cannot read /: Is a directory"),
        (("-l", "--repeat", "2", "t"), b"do not work with -l"),
        (("-m", "x", "-q", "3", "t"), b"must be a whole number from 0 to 2"),
        (("-m", "x", "-L", "http://x/t"), b"a broker's URL is mqtt(s)://"),
        (("-m", "x", "-c", "t"), b"fixed client identifier"),
    ],
)
def test_wrong_usage_is_2_before_anything_is_connected(arguments: tuple[str, ...], says: bytes) -> None:
    """The error names what is wrong, although no broker is there."""
    place = () if "-L" in arguments else ("-p", str(free_port()))
    result = mqttkit("pub", *arguments, *place)
    assert (result.returncode, result.stdout) == (2, b"")
    assert says in result.stderr


def test_without_a_terminal_there_is_nobody_to_ask_for_the_password(topic: str) -> None:
    """`-P -` in a service or a cron job ends with 2 and names the other ways; stdin is not read for it."""
    command = (*MQTTKIT, "pub", "-m", "x", topic, "-u", "kim", "-P", "-", "-p", str(free_port()))
    done = subprocess.run(command, input=b"secret\n", capture_output=True, start_new_session=True)
    assert done.returncode == 2
    assert done.stderr.startswith(b"mqttkit: -P - asks on the terminal, and there is none. Use --password-file")
    assert done.stderr.count(b"\n") == 1


@pytest.mark.parametrize("version", ["5", "311"])
@pytest.mark.parametrize("arguments", [("-q", "0"), ("-q", "1"), ("-q", "2"), ("--repeat", "2", "--quiet")])
def test_a_topic_on_which_the_broker_hangs_up_is_named(
    shared_broker: TestBroker, topic: str, version: str, arguments: tuple[str, ...]
) -> None:
    """mosquitto closes the connection for a control character (MQTT 5, 1.5.4): the error names topic and character."""
    result = mqttkit("pub", f"{topic}/\x07", "-m", "x", "-V", version, *arguments, port=shared_broker.port)
    assert result.returncode == 6
    assert f"'{topic}/\\x07' has U+0007, a control character".encode() in result.stderr, result.stderr


def test_a_line_stream_names_such_a_topic_at_its_end(shared_broker: TestBroker, topic: str) -> None:
    """The client connects again after each loss; the error that ends the command still names the cause."""
    result = mqttkit("pub", f"{topic}/\x9f", "-l", "--quiet", port=shared_broker.port, stdin=b"a\n")
    assert result.returncode == 6
    assert b"has U+009F, a control character" in result.stderr, result.stderr


@pytest.mark.parametrize("option", ["-i", "-u", "--will-topic"])
def test_a_connect_on_which_the_broker_hangs_up_is_named(shared_broker: TestBroker, topic: str, option: str) -> None:
    """So it is for what CONNECT holds."""
    result = mqttkit("pub", topic, "-m", "x", option, "a\x1b", port=shared_broker.port)
    assert result.returncode == 3
    assert b"'a\\x1b' has U+001B, a control character" in result.stderr, result.stderr


def test_a_port_that_speaks_no_websockets_is_named_as_such(
    shared_broker: TestBroker, topic: str, tmp_path: Path
) -> None:
    """And so is the other way round: the message says which option to take or to leave out."""
    result = mqttkit("pub", topic, "-m", "x", "--ws", port=shared_broker.port)
    assert result.returncode == 3
    assert b"the port does not speak WebSockets" in result.stderr
    assert b"drop --ws" in result.stderr
    port = free_port()
    with mosquitto(tmp_path / "ws", f"listener {port} 127.0.0.1", "protocol websockets"):
        result = mqttkit("pub", topic, "-m", "x", port=port)
    assert result.returncode == 3
    assert b"WebSockets (--ws)" in result.stderr


def test_a_web_server_that_speaks_no_websockets_is_told_apart(topic: str) -> None:
    """It answers, and does not upgrade."""

    def answer(connection: socket.socket, _request: bytes) -> bool:
        connection.sendall(b"HTTP/1.1 404 Not Found\r\nConnection: close\r\n\r\n")
        return True

    with scripted_broker(answer) as server:
        result = mqttkit("pub", topic, "-m", "x", "--ws", port=server.port)
    assert result.returncode == 3
    assert b"speaks HTTP, but did not agree to WebSockets" in result.stderr
