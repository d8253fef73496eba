"""`mqttkit request` and `mqttkit respond` on a real broker."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from mqttkit.client import MqttClient
from mqttkit.messages import Message, Properties
from mqttkit.settings import BrokerSettings, MqttSettings
from mqttkit.testing.broker import TestBroker
from tests.support.brokers import Mosquitto
from tests.support.clients import wait_until
from tests.support.commands import MQTTKIT, invoke, running

pytestmark = pytest.mark.system


@contextmanager
def responding(broker: Mosquitto, topic: str, *arguments: str) -> Iterator[object]:
    """Run `mqttkit respond`; the block begins once it has subscribed."""
    place = ("-h", "127.0.0.1", "-p", str(broker.port))
    before = broker.log.count(f"{topic}/# (QoS 1)")
    with running((*MQTTKIT, "respond", f"{topic}/#", *arguments, *place)) as process:
        wait_until(lambda: process.poll() is not None or broker.log.count(f"{topic}/# (QoS 1)") > before)
        yield process


def test_a_command_answers_with_its_output(shared_broker: TestBroker, topic: str) -> None:
    """The payload is its stdin, the topic is in its environment; a signal ends it with 0 and its totals."""
    with responding(shared_broker, topic, "--command", 'printf "%s " "$MQTT_TOPIC"; rev') as process:
        done = invoke("request", f"{topic}/a", "-m", "hello", port=shared_broker.port)
        assert (done.returncode, done.stdout.decode()) == (0, f"{topic}/a olleh\n")
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        assert b"1 answered, 0 failed" in process.stderr.read()


def test_a_request_cannot_reach_the_shell(shared_broker: TestBroker, topic: str) -> None:
    """Neither payload nor topic are part of the command line."""
    with responding(shared_broker, topic, "--command", "cat"):
        attack = "$(touch /tmp/x); `id`; '\""
        done = invoke("request", f"{topic}/$(id)", "-m", attack, port=shared_broker.port)
        assert done.stdout.decode() == attack + "\n"


def test_a_failed_command_is_an_error_for_the_requester(shared_broker: TestBroker, topic: str) -> None:
    """Exit code 1 and the last line of the command's stderr, at once and not after the time limit."""
    with responding(shared_broker, topic, "--command", "echo broken >&2; exit 3"):
        begin = time.monotonic()
        done = invoke("request", f"{topic}/a", "-W", "30", port=shared_broker.port)
        assert time.monotonic() - begin < 25
        assert done.returncode == 1
        assert "the command ended with 3: broken" in done.stderr.decode()


def test_several_responders_answer(shared_broker: TestBroker, topic: str) -> None:
    """-C waits for that many answers."""
    with (
        responding(shared_broker, topic, "--payload", "one"),
        responding(shared_broker, topic, "--payload", "two"),
    ):
        done = invoke("request", f"{topic}/a", "-C", "2", port=shared_broker.port)
        assert (done.returncode, sorted(done.stdout.split())) == (0, [b"one", b"two"])
        short = invoke("request", f"{topic}/a", "-C", "3", "-W", "1.5", port=shared_broker.port)
        assert short.returncode == 27
        assert b"2 of 3 answers" in short.stderr


def test_without_a_responder_the_time_limit_says_why(shared_broker: TestBroker, topic: str) -> None:
    """Exit code 27. MQTT 5 brokers report that no one has subscribed."""
    done = invoke("request", f"{topic}/nobody", "-W", "0.5", port=shared_broker.port)
    assert done.returncode == 27
    assert b"0 of 1 answers" in done.stderr
    assert b"No client has subscribed to that topic" in done.stderr


def test_only_messages_with_the_correlation_data_are_answers(shared_broker: TestBroker, topic: str) -> None:
    """Another message on the response topic is ignored."""
    settings = MqttSettings(broker=BrokerSettings(host="127.0.0.1", port=shared_broker.port))

    def answer(message: Message) -> None:
        asked = message.properties
        assert asked is not None and asked.response_topic is not None
        client.publish(asked.response_topic, b"foreign", qos=1)
        client.publish(asked.response_topic, b"wrong", qos=1, properties=Properties(correlation_data=b"x"))
        right = Properties(correlation_data=asked.correlation_data)
        client.publish(asked.response_topic, b"right", qos=1, properties=right)

    with MqttClient(settings, on_message=answer) as client:
        client.connect()
        client.subscribe(f"{topic}/a")
        done = invoke("request", f"{topic}/a", "--json", port=shared_broker.port)
    assert json.loads(done.stdout)["payload"] == "right"


def test_mqtt_311_needs_a_response_topic(shared_broker: TestBroker, topic: str) -> None:
    """It has no properties: the caller and the responder name the topic."""
    refused = invoke("request", f"{topic}/a", "-V", "311", port=shared_broker.port)
    assert refused.returncode == 2
    assert b"--response-topic" in refused.stderr
    answers = f"answers/{topic}"
    with responding(shared_broker, topic, "--payload", "pong", "-e", answers, "-V", "311"):
        done = invoke("request", f"{topic}/a", "-V", "311", "-e", answers, port=shared_broker.port)
        assert (done.returncode, done.stdout) == (0, b"pong\n")


def test_slow_commands_are_bounded_in_number(shared_broker: TestBroker, topic: str) -> None:
    """With --concurrency 1 the second of two requests waits for the first."""
    arguments = ("--command", "sleep 1; date +%s%N", "--concurrency", "1")
    place = ("-h", "127.0.0.1", "-p", str(shared_broker.port))
    with responding(shared_broker, topic, *arguments):
        command = (*MQTTKIT, "request", f"{topic}/a", "-W", "30", *place)
        with running(command) as first, running(command) as second:
            times = sorted(int(process.communicate(timeout=60)[0]) for process in (first, second))
    assert times[1] - times[0] >= 0.9e9


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("request",), "no topic"),
        (("request", "a/#"), "a/#"),
        (("request", "a", "-m", "x", "-s"), "-m and -s"),
        (("respond", "--payload", "x"), "no topic filter"),
        (("respond", "a"), "either --command or --payload"),
        (("respond", "a", "--command", "x", "--payload", "y"), "either --command or --payload"),
    ],
)
def test_mistakes_are_usage_errors(arguments: tuple[str, ...], complaint: str) -> None:
    """Before any connection."""
    done = invoke(*arguments, port=1)
    assert (done.returncode, complaint in done.stderr.decode()) == (2, True), done.stderr
