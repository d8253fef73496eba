"""Options that users know from mosquitto's clients, against a real broker."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mqttkit.testing.broker import TestBroker
from tests.support.commands import mqttkit, read_lines, subscribed

pytestmark = pytest.mark.system


def test_properties_given_by_d_arrive(shared_broker: TestBroker, topic: str) -> None:
    """-D publish PROPERTY VALUE, one of each."""
    given: list[str] = []
    for pair in ("content-type text/plain", "response-topic r/t", "correlation-data c1", "user-property name value"):
        given += ["-D", "publish", *pair.split()]
    for pair in ("message-expiry-interval 60", "payload-format-indicator 1"):
        given += ["-D", "publish", *pair.split()]
    with subscribed(shared_broker, "--json", topic) as subscriber:
        assert mqttkit("pub", topic, "-m", "x", *given, port=shared_broker.port).returncode == 0
        (line,) = read_lines(subscriber.stdout, 1)
    properties = json.loads(line)["properties"]
    assert properties.pop("message_expiry_interval") <= 60
    assert properties == {
        "payload_format_indicator": 1,
        "content_type": "text/plain",
        "response_topic": "r/t",
        "correlation_data": "c1",
        "user_properties": [["name", "value"]],
    }


def test_a_topic_alias_and_a_subscription_identifier_travel(shared_broker: TestBroker, topic: str) -> None:
    """The broker takes the alias; the message comes back with the identifier of the subscription."""
    with subscribed(shared_broker, "--json", "-D", "subscribe", "subscription-identifier", "56", topic) as subscriber:
        alias = ("-D", "publish", "topic-alias", "4")
        sent = mqttkit("pub", topic, "-l", "-q", "1", *alias, port=shared_broker.port, stdin=b"a\nb\n")
        assert (sent.returncode, sent.stderr) == (0, b"")
        lines = [json.loads(line) for line in read_lines(subscriber.stdout, 2)]
    assert [(line["payload"], line["properties"]) for line in lines] == [
        (payload, {"subscription_identifiers": [56]}) for payload in "ab"
    ]


def test_a_will_has_properties(shared_broker: TestBroker, topic: str) -> None:
    """The broker publishes them with the will of a client that is killed."""
    with subscribed(shared_broker, "--json", topic) as watcher:
        will = ("--will-topic", topic, "--will-payload", "gone", "-D", "will", "content-type", "text/plain")
        user = ("-D", "will", "user-property", "why", "killed")
        with subscribed(shared_broker, *will, *user, f"{topic}/other") as doomed:
            doomed.kill()
            doomed.wait()
        (line,) = read_lines(watcher.stdout, 1)
    expected = {"content_type": "text/plain", "user_properties": [["why", "killed"]]}
    assert (json.loads(line)["payload"], json.loads(line)["properties"]) == ("gone", expected)


def test_options_come_from_a_file(shared_broker: TestBroker, topic: str, tmp_path: Path) -> None:
    """-o names host, port, topic and payload; the command line overrides one of them."""
    (tmp_path / "options").write_text(f"-h 127.0.0.1\n-p {shared_broker.port}\n-t {topic}\n-m from the file\n")
    with subscribed(shared_broker, topic) as subscriber:
        for more in ((), ("-m", "from here")):
            assert mqttkit("pub", "-o", str(tmp_path / "options"), *more).returncode == 0
        assert read_lines(subscriber.stdout, 2) == [b"from the file", b"from here"]


def test_u_removes_a_subscription_of_the_session(shared_broker: TestBroker, topic: str) -> None:
    """What the session no longer subscribes to is not kept for it."""
    session = ("-c", "-i", f"kept-{topic[-12:]}", "-x", "60", "-q", "1")
    port = shared_broker.port
    assert mqttkit("sub", "-E", *session, f"{topic}/a", f"{topic}/b", port=port).returncode == 0
    assert mqttkit("sub", "-U", f"{topic}/a", *session, port=port).returncode == 0
    for name in "ab":
        assert mqttkit("pub", "-m", name, f"{topic}/{name}", port=port).returncode == 0
    kept = mqttkit("sub", "-C", "1", "-W", "5", *session, f"{topic}/b", port=port)
    assert (kept.returncode, kept.stdout) == (0, b"b\n")


def test_retained_messages_come_only_to_a_new_subscription(shared_broker: TestBroker, topic: str) -> None:
    """--retain-handling new: the session that has the subscription already gets none."""
    session = ("-c", "-i", f"kept-{topic[-12:]}", "-x", "60", "--retain-handling", "new", topic)
    assert mqttkit("pub", "-r", "-m", "kept", topic, port=shared_broker.port).returncode == 0
    first = mqttkit("sub", "-C", "1", "-W", "60", *session, port=shared_broker.port)
    assert (first.returncode, first.stdout) == (0, b"kept\n")
    again = mqttkit("sub", "-C", "1", "-W", "1", *session, port=shared_broker.port)
    assert (again.returncode, again.stdout) == (27, b"")


def test_an_empty_payload_is_null_with_v(shared_broker: TestBroker, topic: str) -> None:
    """As mosquitto_sub prints it."""
    with subscribed(shared_broker, "-v", topic) as subscriber:
        assert mqttkit("pub", "-n", topic, port=shared_broker.port).returncode == 0
        assert read_lines(subscriber.stdout, 1) == [f"{topic} (null)".encode()]


def test_a_random_sample_is_printed(shared_broker: TestBroker, topic: str) -> None:
    """--random-filter 10 prints about a tenth; -C counts what was received."""
    with subscribed(shared_broker, "--random-filter", "10", "-C", "5000", topic) as subscriber:
        lines = b"".join(b"%d\n" % number for number in range(5_000))
        assert mqttkit("pub", "-l", "-q", "1", topic, port=shared_broker.port, stdin=lines).returncode == 0
        printed, _ = subscriber.communicate(timeout=60)
    assert 300 <= printed.count(b"\n") <= 700
    assert subscriber.returncode == 0


@pytest.mark.parametrize("identifier", ["dev+1", "dev#1", "a/b", "$x"])
@pytest.mark.parametrize("qos", ["0", "1"])
def test_a_client_identifier_may_have_any_character(
    shared_broker: TestBroker, topic: str, identifier: str, qos: str
) -> None:
    """A client identifier is not a topic."""
    done = mqttkit("pub", "-q", qos, "-i", identifier, "-m", "x", topic, port=shared_broker.port)
    assert (done.returncode, done.stderr) == (0, b"")
