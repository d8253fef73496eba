"""`mqttkit proxy` between real clients and a real broker."""

from __future__ import annotations

import signal
import socket
import threading

import pytest

from mqttkit.client import MqttClient
from mqttkit.errors import ConnectionRefused, LifecycleError
from mqttkit.messages import Message
from mqttkit.proxy.rules import parse_rule
from mqttkit.proxy.server import Proxy
from mqttkit.settings import BrokerSettings, ClientSettings, MqttSettings, ReconnectSettings
from mqttkit.testing.broker import TestBroker
from tests.support.brokers import free_port
from tests.support.clients import wait_until
from tests.support.commands import MQTTKIT, mqttkit, running

pytestmark = pytest.mark.system


def through(proxy: Proxy, **client: object) -> MqttSettings:
    """Return the settings of a client that connects through the proxy."""
    return MqttSettings(
        broker=BrokerSettings(host="127.0.0.1", port=proxy.port),
        client=ClientSettings(**client),  # type: ignore[arg-type]
        reconnect=ReconnectSettings(initial_delay=0.05, max_delay=0.1),
    )


def test_without_rules_everything_arrives(shared_broker: TestBroker, topic: str) -> None:
    """In order, at every QoS, payloads of a megabyte included."""
    received: list[Message] = []
    with (
        Proxy(("127.0.0.1", shared_broker.port)) as proxy,
        MqttClient(through(proxy), on_message=received.append) as client,
    ):
        client.connect()
        client.subscribe(f"{topic}/#", qos=2)
        sent = [(f"{topic}/a", bytes([number]) * (1_000_000 if number == 5 else 10)) for number in range(30)]
        for name, payload in sent:
            client.publish(name, payload, qos=1).result(20)
        wait_until(lambda: len(received) >= len(sent))
        assert [(message.topic, message.payload) for message in received] == sent
        assert proxy.totals.connections == 1


def test_a_dropped_acknowledgement_is_repeated_after_a_cut(shared_broker: TestBroker, topic: str) -> None:
    """The client publishes again with DUP on the next connection, and the receipt resolves."""
    rules = [parse_rule("drop PUBACK 1 from broker")]
    seen: list[str] = []
    with (
        Proxy(
            ("127.0.0.1", shared_broker.port),
            rules=rules,
            on_packet=lambda _client, text, _action: seen.append(text),
        ) as proxy,
        MqttClient(through(proxy, client_id=f"c-{topic[-8:]}", clean_session=False, session_expiry=60)) as client,
    ):
        client.connect()
        receipt = client.publish(f"{topic}/a", b"x", qos=1)
        wait_until(lambda: rules[0].applied == 1)
        assert receipt.outcome is None
        proxy.cut()
        assert receipt.result(20)
        wait_until(lambda: any("PUBLISH" in text and " dup" in text for text in seen))


def test_a_refusal_is_the_reason_that_a_client_gives(shared_broker: TestBroker) -> None:
    """Quota exceeded, as a broker would say it."""
    with Proxy(("127.0.0.1", shared_broker.port), rules=[parse_rule("answer CONNECT 0x97")]) as proxy:
        client = MqttClient(through(proxy, version="5"), retry=False)
        with pytest.raises(ConnectionRefused, match=r"(?i)quota exceeded"):
            client.connect()
        done = mqttkit("pub", "a", "-m", "x", "-V", "5", "--no-retry", port=proxy.port)
        assert done.returncode == 4


def test_a_duplicate_is_delivered_twice(shared_broker: TestBroker, topic: str) -> None:
    """To a subscriber at QoS 0."""
    received: list[bytes] = []
    with (
        Proxy(("127.0.0.1", shared_broker.port), rules=[parse_rule("duplicate PUBLISH 2 from broker")]) as proxy,
        MqttClient(through(proxy), on_message=lambda message: received.append(message.payload)) as client,
    ):
        client.connect()
        client.subscribe(f"{topic}/a")
        for number in range(3):
            client.publish(f"{topic}/a", str(number), qos=1).result(10)
        wait_until(lambda: len(received) >= 4)
        assert received == [b"0", b"1", b"1", b"2"]


def test_silence_keeps_connections_open_and_forwards_nothing(shared_broker: TestBroker) -> None:
    """As a power cut on the other side."""
    with Proxy(("127.0.0.1", shared_broker.port)) as proxy, MqttClient(through(proxy)) as client:
        client.connect()
        proxy.silence()
        assert client.publish("a", b"x", qos=1).wait(0.5) is None
        assert client.connected


def test_a_taken_port_is_an_error_with_its_reason() -> None:
    """Not a proxy that nobody can reach."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(LifecycleError, match=r"cannot listen on 127.0.0.1:.*in use"):
            Proxy(("127.0.0.1", 1), listen=("127.0.0.1", port)).__enter__()


def test_an_absent_broker_ends_the_connection(caplog: pytest.LogCaptureFixture) -> None:
    """The client sees a close, and the log says why."""
    with Proxy(("127.0.0.1", free_port())) as proxy:
        with socket.create_connection(("127.0.0.1", proxy.port), timeout=10) as client:
            assert client.recv(1) == b""
        assert proxy.totals.unreachable == 1


def test_the_command_prints_packets_and_totals(shared_broker: TestBroker, topic: str) -> None:
    """Until a signal ends it with 0."""
    port = free_port()
    command = (*MQTTKIT, "proxy", f"127.0.0.1:{shared_broker.port}", "--listen", f"127.0.0.1:{port}", "--log")
    with running((*command, "--rule", "duplicate PUBLISH 1")) as process:
        assert process.stderr is not None
        started = process.stderr.readline()
        assert b"forwarding 127.0.0.1:" in started
        assert mqttkit("pub", f"{topic}/a", "-m", "hello", "-q", "1", port=port).returncode == 0
        process.send_signal(signal.SIGINT)
        output, diagnostics = process.communicate(timeout=60)
    assert process.returncode == 0
    text = output.decode()
    assert f"client -> broker PUBLISH '{topic}/a' qos 1 id 1, 5 bytes 'hello'  [duplicate]" in text
    assert "broker -> client CONNACK code 0x00" in text
    assert "duplicate PUBLISH 1: 1" in diagnostics.decode()


def test_many_connections_at_the_same_time(shared_broker: TestBroker, topic: str) -> None:
    """Twenty clients, each with its own messages."""
    with Proxy(("127.0.0.1", shared_broker.port)) as proxy:
        failures: list[BaseException] = []

        def work(number: int) -> None:
            try:
                with MqttClient(through(proxy)) as client:
                    client.connect()
                    for count in range(20):
                        client.publish(f"{topic}/{number}", str(count), qos=1).result(30)
            except BaseException as error:  # reported below
                failures.append(error)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert failures == []
        assert proxy.totals.connections == 20
