"""`mqttkit sub` as a process: bytes, formats, ends, signals, pipes."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import psutil
import pytest
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties as PahoProperties

from mqttkit.formats.jsonlines import from_line
from mqttkit.messages import Properties
from mqttkit.testing.broker import TestBroker
from tests.support.brokers import Mosquitto, free_port, mosquitto
from tests.support.clients import wait_until
from tests.support.commands import MQTTKIT, mqttkit, read_lines, running, subscribed
from tests.support.probe import Probe
from tests.support.sockets import wait_for_stall

pytestmark = pytest.mark.system

BINARY = bytes(range(256)) + b"\n\r\n\0\xff"


def test_payload_bytes_come_out_as_they_came_in(shared_broker: TestBroker, topic: str) -> None:
    """Every byte of a payload is printed, and one line feed after it."""
    with subscribed(shared_broker, topic, "-C", "2") as process, Probe(shared_broker.port) as probe:
        probe.publish(topic, BINARY)
        probe.publish(topic, b"")
        output, errors = process.communicate(timeout=60)
    assert (output, errors, process.returncode) == (BINARY + b"\n\n", b"", 0)


def test_verbose_prints_topic_space_payload_and_n_leaves_out_the_line_feed(
    shared_broker: TestBroker, topic: str
) -> None:
    """-v and -N as mosquitto_sub."""
    with subscribed(shared_broker, f"{topic}/#", "-v", "-N", "-C", "2") as process, Probe(shared_broker.port) as probe:
        probe.publish(f"{topic}/é", BINARY)
        probe.publish(f"{topic}/b", b"y")
        output, _ = process.communicate(timeout=60)
    assert output == f"{topic}/é ".encode() + BINARY + f"{topic}/b y".encode()


def test_every_qos_and_properties_are_printed(shared_broker: TestBroker, topic: str) -> None:
    """Messages that the splitter parses and those that paho parses come out of the same pipe, each once."""
    with subscribed(shared_broker, topic, "-v", "-q", "2", "-C", "60") as process:
        for qos in "012":
            lines = "".join(f"{qos} {number}\n" for number in range(20))
            options = ("-V", "5", "-q", qos, "--user-property", "a", "b", "-l", topic)
            assert mqttkit("pub", *options, port=shared_broker.port, stdin=lines.encode()).returncode == 0
        output, _ = process.communicate(timeout=60)
    assert sorted(output.decode().splitlines()) == sorted(f"{topic} {q} {n}" for q in "012" for n in range(20))


def test_a_message_is_printed_at_once_in_a_pipe(shared_broker: TestBroker, topic: str) -> None:
    """stdout is flushed whenever no further message waits."""
    with subscribed(shared_broker, topic) as process, Probe(shared_broker.port) as probe:
        for number in range(3):
            probe.publish(topic, b"%d" % number)
            assert read_lines(process.stdout, 1) == [b"%d" % number]


def test_it_ends_at_once_when_its_reader_is_gone(shared_broker: TestBroker, topic: str) -> None:
    """`| head -1` ends the command with 0 although no second message ever comes."""
    with subscribed(shared_broker, topic) as process, Probe(shared_broker.port) as probe:
        assert process.stdout is not None and process.stderr is not None
        probe.publish(topic, b"first")
        assert read_lines(process.stdout, 1) == [b"first"]
        process.stdout.close()
        assert process.wait(60) == 0
        assert process.stderr.read() == b""


def test_a_pipe_into_head_ends_with_0_under_load(shared_broker: TestBroker, topic: str) -> None:
    """A flood into `head -1` ends the pipeline, and both of it with 0."""
    sub = f"{' '.join(MQTTKIT)} sub {topic} -h 127.0.0.1 -p {shared_broker.port} -i {topic[-8:]}"
    script = f"set -o pipefail; {sub} | head -1"
    with running(("bash", "-c", script)) as process, Probe(shared_broker.port) as probe:
        wait_until(lambda: f"Sending SUBACK to {topic[-8:]}" in shared_broker.log)
        for _ in range(500):
            probe.publish(topic, b"x" * 1000, qos=0)
        probe.publish(topic, b"last")
        output, errors = process.communicate(timeout=60)
    assert (len(output), errors, process.returncode) == (1001, b"", 0)


def test_a_full_disk_is_said_once(shared_broker: TestBroker, topic: str) -> None:
    """An error of writing is one line on stderr and exit code 1."""
    with open("/dev/full", "wb") as full, subscribed(shared_broker, topic, stdout=full) as process:
        with Probe(shared_broker.port) as probe:
            probe.publish(topic, b"x")
        _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (1, b"mqttkit: No space left on device\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_without_an_end_to_reach_is_done(shared_broker: TestBroker, topic: str, number: int) -> None:
    """Without -C there is nothing left to finish: a signal ends it with 0, and what came was printed."""
    with subscribed(shared_broker, topic) as process, Probe(shared_broker.port) as probe:
        probe.publish(topic, b"x")
        assert read_lines(process.stdout, 1) == [b"x"]
        process.send_signal(number)
        output, errors = process.communicate(timeout=60)
    assert (process.returncode, output, errors) == (0, b"", b"")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_before_the_count_is_130(shared_broker: TestBroker, topic: str, number: int) -> None:
    """With -C not reached a signal is an interruption."""
    with subscribed(shared_broker, topic, "-C", "2") as process, Probe(shared_broker.port) as probe:
        probe.publish(topic, b"x")
        assert read_lines(process.stdout, 1) == [b"x"]
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (130, b"mqttkit: interrupted: received 1 of 2 messages\n")


def test_w_runs_out_with_27(shared_broker: TestBroker, topic: str) -> None:
    """As mosquitto_sub, with -C and without."""
    for more, says in ((("-C", "2"), b"0 of 2 messages"), ((), b"0 messages")):
        result = mqttkit("sub", topic, "-W", "0.3", *more, port=shared_broker.port)
        assert (result.returncode, result.stdout) == (27, b"")
        assert result.stderr == b"mqttkit: timed out after 0.3 s: received " + says + b"\n"


def test_e_ends_when_subscribed(shared_broker: TestBroker, topic: str) -> None:
    """-E waits for the SUBACK and no message."""
    result = mqttkit("sub", topic, "-E", port=shared_broker.port)
    assert (result.returncode, result.stdout, result.stderr) == (0, b"", b"")


def test_nothing_retained_ends_with_0(shared_broker: TestBroker, topic: str) -> None:
    """--retained-only does not wait for a message that never comes."""
    result = mqttkit("sub", f"{topic}/#", "--retained-only", port=shared_broker.port)
    assert (result.returncode, result.stdout, result.stderr) == (0, b"", b"")


def test_ten_thousand_retained_messages_all_come(tmp_path: Path) -> None:
    """--retained-only ends after the last one, at each QoS and version, whatever the broker's send window is."""
    lines = [
        json.dumps({"topic": f"r/{number:05}", "payload": f"{number}", "qos": number % 3, "retain": True})
        for number in range(10_000)
    ]
    with mosquitto(tmp_path, "max_queued_messages 0") as broker:
        filled = mqttkit("pub", "--json", port=broker.port, stdin="\n".join(lines).encode())
        assert (filled.returncode, filled.stderr) == (0, b"")
        for version in ("5", "311"):
            for qos in "012":
                result = mqttkit("sub", "#", "--retained-only", "-V", version, "-q", qos, port=broker.port)
                assert result.returncode == 0
                got = sorted(map(int, result.stdout.split()))
                assert got == list(range(10_000)), (version, qos, len(got))


def test_mosquitto_s_small_queue_loses_no_retained_message_over_mqtt_5(broker: Mosquitto) -> None:
    """mosquitto drops what its queue of 1,000 cannot hold: the window is opened so far that nothing queues."""
    lines = [json.dumps({"topic": f"r/{number}", "payload": "x", "qos": 1, "retain": True}) for number in range(5_000)]
    assert mqttkit("pub", "--json", port=broker.port, stdin="\n".join(lines).encode()).returncode == 0
    result = mqttkit("sub", "#", "--retained-only", "--json", port=broker.port)
    found = [json.loads(line) for line in result.stdout.splitlines()]
    assert len({line["topic"] for line in found}) == 5_000
    assert {(line["qos"], line["retain"]) for line in found} == {(1, True)}


def test_retained_only_ends_under_live_traffic(shared_broker: TestBroker, topic: str) -> None:
    """Messages published meanwhile are neither printed nor do they keep the command from its end."""
    with Probe(shared_broker.port) as probe:
        for number in range(3):
            probe.publish(f"{topic}/{number}", b"kept", retain=True)
        pub = f"{' '.join(MQTTKIT)} pub -l -q 0 -h 127.0.0.1 -p {shared_broker.port} {topic}/live"
        script = f"while :; do echo live; done | {pub}"
        with running(("bash", "-c", script), start_new_session=True) as flood:
            probe.subscribe(f"{topic}/live")
            probe.wait_for_messages(100)
            result = mqttkit("sub", f"{topic}/#", "--retained-only", port=shared_broker.port)
            os.killpg(flood.pid, signal.SIGKILL)
    assert (result.returncode, result.stdout) == (0, b"kept\n" * 3)


def test_remove_retained_clears_what_it_printed(shared_broker: TestBroker, topic: str) -> None:
    """Each retained message is printed once and is gone afterwards; -T keeps what it filters out."""
    with Probe(shared_broker.port) as probe:
        for name in ("a", "b", "keep"):
            probe.publish(f"{topic}/{name}", name.encode(), retain=True)
    arguments = ("sub", f"{topic}/#", "--retained-only", "-v")
    result = mqttkit(*arguments, "--remove-retained", "-T", f"{topic}/keep", port=shared_broker.port)
    assert sorted(result.stdout.splitlines()) == [f"{topic}/{name} {name}".encode() for name in "ab"]
    assert result.returncode == 0
    left = mqttkit(*arguments, port=shared_broker.port)
    assert left.stdout == f"{topic}/keep keep\n".encode()


@pytest.mark.parametrize("version", ["5", "311"])
def test_r_prints_no_retained_message(shared_broker: TestBroker, topic: str, version: str) -> None:
    """-R passes over what is stale; -T over what its filter matches."""
    with Probe(shared_broker.port) as probe:
        probe.publish(f"{topic}/a", b"stale", retain=True)
        arguments = (f"{topic}/#", "-R", "-T", f"{topic}/+/no", "-C", "1", "-V", version)
        with subscribed(shared_broker, *arguments) as process:
            probe.publish(f"{topic}/x/no", b"filtered")
            probe.publish(f"{topic}/a", b"fresh", retain=True)
            output, _ = process.communicate(timeout=60)
    assert output == b"fresh\n"


def test_json_keeps_the_retain_flag_of_live_messages(shared_broker: TestBroker, topic: str) -> None:
    """--json subscribes at QoS 2 and with Retain As Published, so that QoS and retain flag are the publisher's."""
    with subscribed(shared_broker, topic, "--json", "-C", "3") as process, Probe(shared_broker.port) as probe:
        for qos in (0, 1, 2):
            probe.publish(topic, b"x", qos=qos, retain=qos == 1)
        output, _ = process.communicate(timeout=60)
    lines = [json.loads(line) for line in output.splitlines()]
    assert [(line["qos"], line["retain"]) for line in lines] == [(0, False), (1, True), (2, False)]


def properties_of(number: int) -> PahoProperties | None:
    """Return the properties of the copied message of that number: every other one has some."""
    if number % 2 == 0:
        return None
    properties = PahoProperties(PacketTypes.PUBLISH)
    properties.UserProperty = [("k", "é"), ("k", " "), (str(number), "")]
    properties.CorrelationData = bytes((number, 255))
    properties.ContentType = "text/plain"
    properties.ResponseTopic = "answer/here"
    properties.PayloadFormatIndicator = 0
    properties.MessageExpiryInterval = 4_000_000_000
    return properties


def test_json_copies_a_tree_without_loss(tmp_path: Path) -> None:
    """`sub --json | pub --json` carries every byte, QoS, retain flag and property to another broker."""
    texts = [BINARY, "é\u2028\n\t\0".encode(), b""]
    with (
        mosquitto(tmp_path / "one") as one,
        mosquitto(tmp_path / "two") as two,
        subscribed(two, "#", "--json", "-C", "40") as mirror,
        subscribed(one, "#", "--json", "-C", "40") as source,
        running((*MQTTKIT, "pub", "--json", "-h", "127.0.0.1", "-p", str(two.port)), stdin=source.stdout) as copier,
        Probe(one.port) as probe,
    ):
        for number in range(40):
            qos, retain = number % 3, number % 4 == 1
            probe.client.publish(f"t/é/{number}", texts[number % 5 % 3], qos, retain, properties_of(number))
        probe.pump(lambda: copier.poll() is not None)
        copied = mirror.communicate(timeout=60)[0]
        assert (copier.returncode, copier.stderr and copier.stderr.read()) == (0, b"")
    messages = {message.topic: message for message in map(from_line, copied.splitlines())}
    assert set(messages) == {f"t/é/{number}" for number in range(40)}
    for number in range(40):
        message = messages[f"t/é/{number}"]
        assert (message.payload, message.qos) == (texts[number % 5 % 3], number % 3)
        assert message.retain == (number % 4 == 1)
        if number % 2 == 0:
            assert message.properties is None
            continue
        expiry = message.properties and message.properties.message_expiry_interval
        assert expiry and 3_999_990_000 < expiry <= 4_000_000_000
        assert message.properties == Properties(
            payload_format_indicator=0,
            message_expiry_interval=expiry,
            content_type="text/plain",
            response_topic="answer/here",
            correlation_data=bytes((number, 255)),
            user_properties=(("k", "é"), ("k", " "), (str(number), "")),
        )


def test_a_kept_session_keeps_what_was_not_printed(shared_broker: TestBroker, topic: str) -> None:
    """With -c, messages behind the last one that -C prints stay with the broker for the next run."""
    arguments = ("sub", topic, "-q", "1", "-c", "-i", topic[-12:])
    assert mqttkit(*arguments, "-E", port=shared_broker.port).returncode == 0
    with Probe(shared_broker.port) as probe:
        for number in range(10):
            probe.publish(topic, b"%d" % number)
    got = []
    for count in (3, 1, 6):
        result = mqttkit(*arguments, "-C", str(count), "-W", "20", port=shared_broker.port)
        assert (result.returncode, result.stderr) == (0, b"")
        got.append(result.stdout.split())
    assert got == [[b"0", b"1", b"2"], [b"3"], [b"4", b"5", b"6", b"7", b"8", b"9"]]


def test_it_goes_on_after_the_broker_was_away(broker: Mosquitto, topic: str) -> None:
    """A broker that stops and starts again finds the subscriber back."""
    with subscribed(broker, topic, "--quiet") as process:
        broker.stop()
        broker.start()
        wait_until(lambda: broker.log.count("Sending SUBACK to sub-") == 2)
        with Probe(broker.port) as probe:
            probe.publish(topic, b"back")
        assert read_lines(process.stdout, 1) == [b"back"]


def test_a_slow_reader_does_not_fill_the_memory(tmp_path: Path, topic: str) -> None:
    """While nobody reads stdout the queue stops at its bound, the rest waits in TCP and the broker; nothing is lost."""
    block = b"x" * 100_000 + b"\n"
    with (
        mosquitto(tmp_path, "max_queued_messages 0") as broker,
        subscribed(broker, topic, "-C", "3000") as process,
    ):
        result = mqttkit("pub", topic, "-l", "-q", "0", port=broker.port, stdin=block * 3_000)
        assert (result.returncode, result.stderr) == (0, b"")
        wait_for_stall(broker.port)
        assert psutil.Process(process.pid).memory_info().rss < 150 * 1024 * 1024
        assert process.stdout is not None
        taken = 0
        while chunk := os.read(process.stdout.fileno(), 1 << 20):
            taken += len(chunk)
        assert (taken, process.wait(60)) == (3_000 * len(block), 0)


def test_a_reader_that_pauses_keeps_the_connection(tmp_path: Path, topic: str) -> None:
    """While stdout is not read the keep alive goes on, and nothing is lost that the broker held for us."""
    lines = [b"%07d" % number + b"x" * 10_000 for number in range(10_000)]
    with (
        mosquitto(tmp_path, "max_queued_messages 0", "max_inflight_messages 0") as broker,
        subscribed(broker, topic, "-q", "1", "-k", "1", "-C", str(len(lines))) as process,
    ):
        stdin = b"\n".join(lines)
        result = mqttkit("pub", topic, "-l", "-q", "1", port=broker.port, stdin=stdin)
        assert result.returncode == 0
        wait_until(lambda: broker.log.count("Received PINGREQ from sub-") >= 4)
        output, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, b"")
    assert output.split(b"\n")[:-1] == lines


def test_without_retry_a_lost_connection_is_3(broker: Mosquitto, topic: str) -> None:
    """--no-retry: what came is printed, then one line says what happened."""
    with subscribed(broker, topic, "--no-retry") as process, Probe(broker.port) as probe:
        probe.publish(topic, b"x")
        assert read_lines(process.stdout, 1) == [b"x"]
        broker.stop(signal.SIGKILL)
        _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors.count(b"\n")) == (3, 1), errors


def test_the_topic_of_a_url_is_a_filter(shared_broker: TestBroker, topic: str) -> None:
    """-L names broker and topic in one."""
    with Probe(shared_broker.port) as probe:
        probe.publish(f"{topic}/x", b"kept", retain=True)
    result = mqttkit("sub", "-L", f"mqtt://127.0.0.1:{shared_broker.port}/{topic}/x", "-C", "1", "-W", "20")
    assert (result.returncode, result.stdout) == (0, b"kept\n")


def test_an_unreachable_broker_is_3(topic: str) -> None:
    """One line that names the address and the next command."""
    result = mqttkit("sub", topic, port=free_port())
    assert (result.returncode, result.stdout) == (3, b"")
    assert result.stderr.startswith(b"mqttkit: cannot reach broker 127.0.0.1:")
    assert result.stderr.count(b"\n") == 1


def test_a_refused_connection_is_4(tmp_path: Path, topic: str) -> None:
    """One line that names the CONNACK's reason."""
    with mosquitto(tmp_path, anonymous=False) as broker:
        result = mqttkit("sub", topic, port=broker.port)
    assert (result.returncode, result.stdout, result.stderr.count(b"\n")) == (4, b"", 1)
    assert b"refused the connection: not authorized" in result.stderr.lower()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), b"no topic filter"),
        (("a/#/b",), b"# must be the whole last level"),
        (("a", "-F", "%z"), b"unknown sequence '%z'"),
        (("a", "--json", "-v"), b"--json does not work with -v"),
        (("a", "--retained-only", "-R"), b"together print nothing"),
        (("a", "-R", "--retain-as-published"), b"does not work with -R"),
        (("a", "-C", "0"), b"must be a whole number, 1 or more"),
        (("a", "-W", "0"), b"0"),
        (("a", "-T", "a/#/b"), b"# must be the whole last level"),
        (("a", "-c"), b"fixed client identifier"),
    ],
)
def test_wrong_usage_is_2_before_anything_is_connected(arguments: tuple[str, ...], says: bytes) -> None:
    """The error names what is wrong, although no broker is there."""
    result = mqttkit("sub", *arguments, port=free_port())
    assert (result.returncode, result.stdout) == (2, b"")
    assert says in result.stderr


def test_percent_capital_j_passes_over_what_is_no_json(shared_broker: TestBroker, topic: str) -> None:
    """A payload that %J cannot print is named on stderr, and the others are printed."""
    with subscribed(shared_broker, topic, "-F", "%J", "-C", "2") as process, Probe(shared_broker.port) as probe:
        probe.publish(topic, b"no json")
        probe.publish(topic, b"27.0")
        output, errors = process.communicate(timeout=60)
    assert b'"payload":27.0}' in output
    assert b"payload is not valid JSON" in errors and process.returncode == 0


def test_a_filter_on_which_the_broker_hangs_up_is_named(shared_broker: TestBroker, topic: str) -> None:
    """mosquitto closes the connection for a control character (MQTT 5, 1.5.4)."""
    result = mqttkit("sub", f"{topic}/\x01/#", "-W", "20", port=shared_broker.port)
    assert result.returncode == 3
    assert f"'{topic}/\\x01/#' has U+0001, a control character".encode() in result.stderr, result.stderr
