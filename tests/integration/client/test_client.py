"""MqttClient against real mosquittos: connecting, reconnecting, receipts, subscriptions."""

from __future__ import annotations

import gc
import logging
import queue
import signal
import socket
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from paho.mqtt.enums import MQTTErrorCode

from mqttkit.client import ConnectionState, MqttClient
from mqttkit.client.control import connection_number, drop_connection
from mqttkit.client.reconnect import Decision
from mqttkit.errors import BrokerUnreachable, ConfigError, ConnectionRefused, SubscriptionDenied, TopicError
from mqttkit.messages import Message, Outcome, Properties, Subscription, Will
from mqttkit.settings import TlsSettings
from mqttkit.testing.broker import TestBroker
from tests.support.brokers import Mosquitto, free_port, mosquitto, wait_for_port
from tests.support.clients import settings_for, wait_until
from tests.support.scripted_broker import protocol_level, scripted_broker

ACL = "user writer\ntopic write up/#\nuser reader\ntopic read up/#\n"
PASSWORDS = {"writer": "writer-password-1", "reader": "reader-password-1"}


@pytest.fixture
def guarded(tmp_path: Path) -> Mosquitto:
    """A mosquitto with two users: one may write up/#, one may read it."""
    from mqttkit.broker.accounts.passwords import password_line

    users = tmp_path / "passwd"
    users.write_text("".join(password_line(user, word, iterations=100) + "\n" for user, word in PASSWORDS.items()))
    acl = tmp_path / "acl"
    acl.write_text(ACL)
    with mosquitto(tmp_path / "guarded", f"password_file {users}", f"acl_file {acl}", anonymous=False) as broker:
        yield broker


def login(user: str) -> dict[str, str]:
    """Return the fields of a user's credentials."""
    return {"username": user, "password": PASSWORDS[user]}


@pytest.mark.parametrize("version", ["auto", "5", "311"])
@pytest.mark.parametrize("qos", [0, 1, 2])
def test_a_message_comes_back_as_it_was_published(
    shared_broker: TestBroker, topic: str, version: str, qos: int
) -> None:
    """Topic, payload bytes and QoS survive the round trip; the receipt tells what is known."""
    received: queue.Queue[Message] = queue.Queue()
    with MqttClient(settings_for(shared_broker.port, version=version), on_message=received.put) as client:
        client.connect(timeout=60)
        assert client.protocol_version == (4 if version == "311" else 5)
        assert client.subscribe(Subscription(f"{topic}/#", qos=2)) == [2]
        receipt = client.publish(f"{topic}/é", b"\x00\xff payload", qos=qos)
        assert receipt.wait(60) is (Outcome.ACKNOWLEDGED if qos else Outcome.SENT)
        message = received.get(timeout=60)
    assert (message.topic, message.payload, message.qos) == (f"{topic}/é", b"\x00\xff payload", qos)


def test_properties_of_mqtt_5_survive(shared_broker: TestBroker, topic: str) -> None:
    """Each property that a PUBLISH may carry comes back."""
    sent = Properties(
        payload_format_indicator=1,
        content_type="text/plain",
        response_topic="answers/here",
        correlation_data=b"\x00\x01",
        user_properties=(("a", "1"), ("a", "2")),
    )
    received: queue.Queue[Message] = queue.Queue()
    with MqttClient(settings_for(shared_broker.port, version="5"), on_message=received.put) as client:
        client.connect(timeout=60)
        client.subscribe(Subscription(topic, qos=1))
        client.publish(topic, b"text", qos=1, properties=sent)
        assert received.get(timeout=60).properties == sent


def test_messages_may_come_as_lists(shared_broker: TestBroker, topic: str) -> None:
    """`on_messages` gets every message, in order, in lists."""
    received: list[Message] = []
    with MqttClient(settings_for(shared_broker.port), on_messages=received.extend) as client:
        client.connect(timeout=60)
        client.subscribe(Subscription(topic, qos=1))
        for number in range(100):
            client.publish(topic, b"%d" % number, qos=1, wait=60)
        wait_until(lambda: len(received) == 100)
    assert [int(message.payload) for message in received] == list(range(100))


def test_denied_publish_is_told(guarded: Mosquitto) -> None:
    """On MQTT 5 at QoS 1 the broker says that the ACL denies a publish, and so does the receipt."""
    with MqttClient(settings_for(guarded.port, **login("writer"))) as client:
        client.connect(timeout=60)
        allowed, denied = (client.publish(topic, b"x", qos=1) for topic in ("up/a", "down/a"))
        assert allowed.wait(60) is Outcome.ACKNOWLEDGED
        assert denied.wait(60) is Outcome.DENIED
        assert denied.code == 0x87
        assert "authorized" in denied.reason.lower()


def test_denied_subscription_is_an_error(tmp_path: Path) -> None:
    """A SUBACK that says no raises, with the filter and the reason; other subscriptions stand."""

    def deny(connection: socket.socket, _connect: bytes) -> bool:
        connection.sendall(b"\x20\x03\x00\x00\x00")
        subscribe = connection.recv(4096)
        connection.sendall(b"\x90\x05" + subscribe[2:4] + b"\x00\x01\x87")
        return True

    with scripted_broker(deny) as server, MqttClient(settings_for(server.port, version="5")) as client:
        client.connect(timeout=60)
        with pytest.raises(SubscriptionDenied, match="'secret/#' denied: not authorized") as caught:
            client.subscribe(Subscription("open/#", qos=1), Subscription("secret/#", qos=1))
        assert caught.value.exit_code == 5
        assert client._subscribed.topic_filters == ["open/#"]


@pytest.mark.parametrize("version", ["auto", "311"])
def test_refused_connection_names_the_reason(guarded: Mosquitto, version: str) -> None:
    """Wrong credentials are a refusal with the CONNACK's reason, not a lost connection."""
    settings = settings_for(guarded.port, username="writer", password="wrong", version=version)
    with MqttClient(settings) as client, pytest.raises(ConnectionRefused, match="-u, --password-file") as caught:
        client.connect(timeout=60)
    assert caught.value.code == 0x87
    assert "wrong" not in str(caught.value)


def test_unreachable_broker_names_the_step_that_failed() -> None:
    """A closed port and an unknown host are told apart, each with its next step."""
    with MqttClient(settings_for(free_port())) as client, pytest.raises(BrokerUnreachable, match="broker up") as tcp:
        client.connect(timeout=60)
    settings = settings_for(1883, host="no-such-host.invalid")
    with MqttClient(settings) as client, pytest.raises(BrokerUnreachable, match="no address for host") as dns:
        client.connect(timeout=60)
    assert (tcp.value.step, dns.value.step) == ("tcp", "dns")


@pytest.mark.parametrize("host", ["", "a" * 64 + ".invalid", "bad\0host"])
def test_a_host_that_cannot_be_one_does_not_kill_the_thread(host: str) -> None:
    """What the resolver chokes on is an unreachable broker too."""
    with MqttClient(settings_for(1883, host=host or "256.256.256.256")) as client, pytest.raises(BrokerUnreachable):
        client.connect(timeout=60)


def test_silent_server_is_given_up_after_the_connect_timeout() -> None:
    """A port that accepts and never answers CONNECT ends in an error, not in a hang."""
    settings_fields = {"version": "311", "connect_timeout": 0.5}
    with scripted_broker(lambda _connection, _packet: True) as server:
        began = time.monotonic()
        with MqttClient(settings_for(server.port, **settings_fields)) as client, pytest.raises(BrokerUnreachable):
            client.connect(timeout=60)
        assert time.monotonic() - began < 30


@pytest.mark.parametrize("refusal", [b"\x20\x02\x00\x01", b"\x20\x03\x00\x84\x00", b""])
def test_automatic_version_falls_back_to_3_1_1(refusal: bytes) -> None:
    """A broker that refuses MQTT 5, in either form or by closing, is spoken to in 3.1.1."""

    def answer(connection: socket.socket, connect: bytes) -> bool:
        if protocol_level(connect) == 4:
            connection.sendall(b"\x20\x02\x00\x00")
            return True
        connection.sendall(refusal)
        return False

    with scripted_broker(answer) as server, MqttClient(settings_for(server.port)) as client:
        client.connect(timeout=60)
        assert client.protocol_version == 4
        assert [protocol_level(connect) for connect in server.connects] == [5, 4]


def test_next_host_is_tried_where_one_fails(shared_broker: TestBroker, topic: str) -> None:
    """With a list of hosts the first that works is used, under the same client identifier."""
    hosts = (f"127.0.0.1:{free_port()}", f"localhost:{shared_broker.port}")
    with MqttClient(settings_for(1, hosts=hosts, client_id=topic)) as client:
        client.connect(timeout=60)
        assert client.address == ("localhost", shared_broker.port)
        assert client.client_id == topic


def test_each_host_of_a_round_that_failed_is_told_of(guarded: Mosquitto, caplog: pytest.LogCaptureFixture) -> None:
    """The last one is the error, the others are warnings: one that refused us may be what matters."""
    away = f"127.0.0.1:{free_port()}"
    hosts = (f"127.0.0.1:{guarded.port}", away)
    client = MqttClient(settings_for(1, hosts=hosts, username="nobody", password="x"), retry=False)
    with client, pytest.raises(BrokerUnreachable, match=away):
        client.connect(timeout=60)
    warnings = [record.message for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(warnings) == 1
    assert f"{hosts[0]} refused the connection: not authorized" in warnings[0]


def test_fail_over_while_connected(tmp_path: Path, topic: str) -> None:
    """When the broker is killed the client goes to the next host and subscribes there again."""
    received: queue.Queue[Message] = queue.Queue()
    with mosquitto(tmp_path / "a") as first, mosquitto(tmp_path / "b") as second:
        hosts = (f"127.0.0.1:{first.port}", f"127.0.0.1:{second.port}")
        with MqttClient(settings_for(1, hosts=hosts), on_message=received.put) as client:
            client.connect(timeout=60)
            client.subscribe(Subscription(topic))
            first.stop(signal.SIGKILL)
            wait_until(lambda: client.connected and client.address[1] == second.port)
            assert client.publish(topic, b"here").wait(60) is Outcome.SENT
            assert received.get(timeout=60).payload == b"here"
            assert (client.stats.connects, client.stats.disconnects) == (2, 1)


def test_reconnects_soon_after_the_broker_returns_however_long_the_wait(broker: Mosquitto) -> None:
    """A TCP probe cuts a wait of ten minutes short: connected within a minute of the broker's return."""
    settings = settings_for(broker.port, initial_delay=600.0, max_delay=600.0)
    with MqttClient(settings) as client:
        client.connect(timeout=60)
        broker.stop()
        wait_until(lambda: client.state is ConnectionState.WAITING)
        broker.start()
        assert client.wait_connected(60)


def test_a_port_that_accepts_before_its_broker_listens_is_tried_again_soon() -> None:
    """As behind a published port of Docker: a connection closed before its CONNACK does not cost the long wait."""

    def answer(connection: socket.socket, _connect: bytes) -> bool:
        if len(server.connects) == 1:
            return False
        connection.sendall(b"\x20\x02\x00\x00")
        return True

    with scripted_broker(answer) as server:
        settings = settings_for(server.port, version="311", initial_delay=600.0, max_delay=600.0)
        with MqttClient(settings) as client:
            client.start()
            assert client.wait_connected(60)


def test_delays_double_up_to_the_maximum(caplog: pytest.LogCaptureFixture) -> None:
    """Without jitter the waits are 1, 2, 4, 4 times the initial delay; the trouble is logged once, not once a try."""
    waits: list[str] = []
    tried = threading.Event()

    def watch(state: ConnectionState, reason: str) -> None:
        if state is ConnectionState.WAITING:
            waits.append(reason.rpartition("again in ")[2])
            if len(waits) == 4:
                tried.set()

    settings = settings_for(free_port(), initial_delay=0.1, max_delay=0.4)
    with caplog.at_level(logging.INFO, "mqttkit"), MqttClient(settings, on_state=watch) as client:
        client.start()
        assert tried.wait(60)
    assert waits[:4] == ["0.1 s", "0.2 s", "0.4 s", "0.4 s"]
    assert sum("cannot reach" in record.message for record in caplog.records) == 1


def test_without_retry_a_lost_connection_is_the_end(broker: Mosquitto) -> None:
    """`retry=False` gives up at the first failure, and says why."""
    with MqttClient(settings_for(broker.port), retry=False) as client:
        client.connect(timeout=60)
        broker.stop()
        wait_until(lambda: client.given_up)
        wait_until(lambda: client.state is ConnectionState.CLOSED)
        assert isinstance(client.failure, BrokerUnreachable)


def test_publishing_while_away_drops_and_counts(broker: Mosquitto, topic: str) -> None:
    """Nothing is kept while the broker is away; each drop has its cause; publishing never blocks."""
    with MqttClient(settings_for(broker.port, initial_delay=600)) as client:
        client.connect(timeout=60)
        broker.stop()
        wait_until(lambda: not client.connected)
        receipts = [client.publish(topic, b"x", qos=qos) for qos in (0, 1, 2)]
        assert {receipt.outcome for receipt in receipts} == {Outcome.DROPPED}
        assert client.stats.dropped == {"not connected": 3}


def test_full_queue_drops_or_waits(broker: Mosquitto, topic: str) -> None:
    """A broker that does not read fills the bounded queue: the next is dropped, or waits for room as long as asked."""
    settings = settings_for(broker.port, max_queued_messages=10)
    with MqttClient(settings) as client:
        client.connect(timeout=60)
        broker.signal(signal.SIGSTOP)
        receipts = [client.publish(topic, b"x", qos=1) for _ in range(15)]
        assert [receipt.reason for receipt in receipts[10:]] == ["queue full"] * 5
        assert client.unresolved == 10
        began = time.monotonic()
        assert client.publish(topic, b"x", qos=1, wait=0.3).reason == "queue full"
        assert time.monotonic() - began >= 0.3
        broker.signal(signal.SIGCONT)
        assert client.publish(topic, b"x", qos=1, wait=60).wait(60) is Outcome.ACKNOWLEDGED


def test_unacknowledged_publish_is_lost_with_a_clean_session(broker: Mosquitto, topic: str) -> None:
    """QoS 1 under way when the connection ends is reported lost where no session is kept."""
    with MqttClient(settings_for(broker.port)) as client:
        client.connect(timeout=60)
        broker.signal(signal.SIGSTOP)
        receipt = client.publish(topic, b"x", qos=1)
        broker.stop(signal.SIGKILL)
        assert receipt.wait(60) is Outcome.LOST
        assert client.flush(0)


def test_unacknowledged_publish_is_sent_again_in_a_kept_session(tmp_path: Path) -> None:
    """In a kept session QoS 1 under way goes out again, marked DUP, and is acknowledged."""
    published: queue.Queue[bytes] = queue.Queue()

    def answer(connection: socket.socket, _connect: bytes) -> bool:
        connection.sendall(b"\x20\x02" + (b"\x01\x00" if len(server.connects) > 1 else b"\x00\x00"))
        packet = connection.recv(4096)
        published.put(packet)
        if len(server.connects) == 1:
            return False
        topic_length = int.from_bytes(packet[2:4], "big")
        connection.sendall(b"\x40\x02" + packet[4 + topic_length : 6 + topic_length])
        return True

    with scripted_broker(answer) as server:
        settings = settings_for(server.port, version="311", clean_session=False, client_id="kept")
        with MqttClient(settings) as client:
            client.connect(timeout=60)
            receipt = client.publish("t", b"x", qos=1)
            assert receipt.wait(60) is Outcome.ACKNOWLEDGED
            assert client.session_present
        first, second = published.get(timeout=60), published.get(timeout=60)
    assert (first[0], second[0]) == (0x32, 0x3A)
    assert first[1:] == second[1:]


def test_subscriptions_are_made_again_after_the_broker_lost_the_session(broker: Mosquitto, topic: str) -> None:
    """A broker that comes back empty is subscribed to again without the caller."""
    received: queue.Queue[Message] = queue.Queue()
    with MqttClient(settings_for(broker.port), on_message=received.put) as client:
        client.connect(timeout=60)
        client.subscribe(Subscription(topic, qos=1))
        broker.stop()
        broker.start()
        wait_until(lambda: connection_number(client) == 2 and client.connected)
        client.publish(topic, b"again", qos=1, wait=60)
        assert received.get(timeout=60).epoch == 2


def test_late_acknowledgement_of_an_old_connection_is_refused(broker: Mosquitto, topic: str) -> None:
    """A message of a former connection is not acknowledged on this one: its identifier means another message."""
    received: queue.Queue[Message] = queue.Queue()
    settings = settings_for(broker.port, clean_session=False, client_id="late", session_expiry=60)
    with MqttClient(settings, on_message=received.put, manual_ack=True) as client:
        client.connect(timeout=60)
        client.subscribe(Subscription(topic, qos=1))
        client.publish(topic, b"x", qos=1, wait=60)
        old = received.get(timeout=60)
        broker.stop()
        wait_until(lambda: not client.connected)
        assert not client.ack(old)
        broker.start()
        wait_until(lambda: connection_number(client) == 2 and client.connected)
        assert not client.ack(old)


def test_handler_that_raises_is_counted_and_the_thread_lives(shared_broker: TestBroker, topic: str) -> None:
    """What a handler raises is logged and counted; later messages still come."""
    received: queue.Queue[bytes] = queue.Queue()

    def handle(message: Message) -> None:
        received.put(message.payload)
        raise ValueError("handler failed")

    with MqttClient(settings_for(shared_broker.port), on_message=handle) as client:
        client.connect(timeout=60)
        client.subscribe(Subscription(topic, qos=1))
        for payload in (b"1", b"2"):
            client.publish(topic, payload, qos=1)
            assert received.get(timeout=60) == payload
        wait_until(lambda: client.stats.handler_errors == 2)


@pytest.mark.parametrize("qos", [0, 1, 2])
def test_bytes_sent_are_counted(shared_broker: TestBroker, topic: str, qos: int) -> None:
    """Those of paho's packets too; an acknowledged publish was sent whole."""
    with MqttClient(settings_for(shared_broker.port)) as client:
        client.connect(timeout=60)
        before = client.stats.sent_bytes
        client.publish(topic, bytes(100_000), qos=qos).result(timeout=60)
        wait_until(lambda: client.stats.sent_bytes > before + 100_000)
        assert before > 0
        assert 100_000 < client.stats.sent_bytes - before < 101_000


def test_an_unexpected_exception_ends_the_connection_and_not_the_thread(
    shared_broker: TestBroker, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged once, with its cause, however often it comes; the client connects again."""
    failures = iter([RuntimeError("a defect")] * 2)

    def fail_twice() -> MQTTErrorCode:
        for error in failures:
            raise error
        return original()

    with MqttClient(settings_for(shared_broker.port, initial_delay=0.05)) as client:
        client.connect(timeout=60)
        original = client._connection.loop_misc
        client._connection.loop_misc = fail_twice
        wait_until(lambda: client.stats.connects == 2)
        assert next(failures, None) is None
        assert not client.given_up
    records = [record for record in caplog.records if "a defect" in record.message and record.levelname == "ERROR"]
    assert len(records) == 1
    assert records[0].exc_info is not None


def test_a_network_thread_that_fails_gives_up_and_says_so(shared_broker: TestBroker, topic: str) -> None:
    """A defect of its own ends it; nobody waits for it any more."""

    def fail(_event: object) -> Decision:
        raise RuntimeError("a defect")

    with MqttClient(settings_for(shared_broker.port)) as client:
        client.connect(timeout=60)
        client._policy.decide = fail
        drop_connection(client)
        wait_until(lambda: client.state is ConnectionState.CLOSED)
        assert client.given_up
        assert not client.connected
        assert "a defect" in str(client.failure)
        assert client.publish(topic, b"x", qos=1).outcome is Outcome.DROPPED


def test_topic_that_is_not_utf_8_keeps_its_bytes() -> None:
    """A PUBLISH whose topic is not UTF-8 is delivered with its bytes, and the thread lives."""
    received: queue.Queue[Message] = queue.Queue()

    def answer(connection: socket.socket, _connect: bytes) -> bool:
        connection.sendall(b"\x20\x02\x00\x00" + b"\x30\x05\x00\x02\xff\xfeA" + b"\x30\x04\x00\x01tB")
        return True

    with (
        scripted_broker(answer) as server,
        MqttClient(settings_for(server.port, version="311"), on_message=received.put) as client,
    ):
        client.connect(timeout=60)
        broken, fine = received.get(timeout=60), received.get(timeout=60)
    assert (broken.topic_bytes, broken.payload, broken.topic_is_valid) == (b"\xff\xfe", b"A", False)
    assert (fine.topic, fine.payload, fine.topic_is_valid) == ("t", b"B", True)


def test_will_is_published_when_the_client_vanishes(shared_broker: TestBroker, topic: str) -> None:
    """A connection that ends without DISCONNECT leaves its will; one that is closed does not."""
    received: queue.Queue[Message] = queue.Queue()
    with MqttClient(settings_for(shared_broker.port), on_message=received.put) as watcher:
        watcher.connect(timeout=60)
        watcher.subscribe(Subscription(f"{topic}/+", qos=1))
        with MqttClient(settings_for(shared_broker.port), will=Will(f"{topic}/closed", b"gone")) as closed:
            closed.connect(timeout=60)
        with MqttClient(
            settings_for(shared_broker.port), will=Will(f"{topic}/vanished", b"gone", qos=1), retry=False
        ) as vanished:
            vanished.connect(timeout=60)
            sock = vanished._connection.socket()
            assert sock is not None
            socket.socket(fileno=sock.fileno()).detach()
            vanished._connection._sock_close()
            assert received.get(timeout=60).topic == f"{topic}/vanished"
        assert received.empty()


def test_two_clients_of_one_identifier_are_reported_and_wait_longer(shared_broker: TestBroker, topic: str) -> None:
    """The session is taken over again and again: the clients say so, and go on with growing waits."""
    settings = settings_for(shared_broker.port, client_id=topic, version="5", initial_delay=0.05)
    named = f"another client with the client identifier '{topic}'"
    with MqttClient(settings) as one, MqttClient(settings) as two:
        one.start()
        two.start()
        wait_until(lambda: named in f"{one.reason} {two.reason}")
        assert not one.given_up
        assert not two.given_up


def test_close_ends_promptly_while_the_broker_is_stuck(broker: Mosquitto, topic: str) -> None:
    """Closing a client whose broker does not read any more takes seconds, not for ever."""
    client = MqttClient(settings_for(broker.port))
    client.connect(timeout=60)
    broker.signal(signal.SIGSTOP)
    for _ in range(200):
        client.publish(topic, bytes(100_000), qos=0)
    began = time.monotonic()
    client.close(flush=0.2)
    assert time.monotonic() - began < 30
    client.close()
    assert client.state is ConnectionState.CLOSED
    wait_until(lambda: not any("paho" in thread.name for thread in threading.enumerate()))


def test_malformed_topic_is_refused_before_it_is_sent(shared_broker: TestBroker) -> None:
    """A wildcard or an empty topic never reaches the broker."""
    with MqttClient(settings_for(shared_broker.port)) as client:
        client.connect(timeout=60)
        for name in ("", "a/+", "a/#", "a\0b"):
            with pytest.raises(TopicError):
                client.publish(name, b"")
        with pytest.raises(TopicError):
            client.subscribe(Subscription("a/#/b"))


def test_missing_certificate_file_is_named(tmp_path: Path) -> None:
    """TLS settings that cannot work are an error of the configuration, before anything connects."""
    with pytest.raises(ConfigError, match="no file"):
        MqttClient(settings_for(8883, tls=TlsSettings(ca_file=str(tmp_path / "none.pem"))))
    not_pem = tmp_path / "not.pem"
    not_pem.write_text("not a certificate")
    with pytest.raises(ConfigError, match="is not a PEM file"):
        MqttClient(settings_for(8883, tls=TlsSettings(ca_file=str(not_pem))))
    with pytest.raises(ConfigError, match="needs its certificate"):
        MqttClient(settings_for(8883, tls=TlsSettings(key_file=str(not_pem))))


def test_websockets(tmp_path: Path, topic: str) -> None:
    """MQTT over WebSockets carries messages both ways."""
    received: queue.Queue[Message] = queue.Queue()
    port = free_port()
    with (
        mosquitto(tmp_path / "ws", f"listener {port} 127.0.0.1", "protocol websockets"),
        MqttClient(settings_for(port, transport="websockets"), on_message=received.put) as client,
    ):
        wait_for_port(port)
        client.connect(timeout=60)
        client.subscribe(Subscription(topic, qos=1))
        client.publish(topic, b"x" * 70_000, qos=1)
        assert len(received.get(timeout=60).payload) == 70_000


def test_websockets_to_a_port_that_speaks_none(shared_broker: TestBroker) -> None:
    """A failed handshake is named as such, and leaves no open socket behind."""
    settings = settings_for(shared_broker.port, transport="websockets", connect_timeout=2.0)
    with MqttClient(settings) as client, pytest.raises(BrokerUnreachable, match="does not speak WebSockets") as caught:
        client.connect(timeout=60)
    assert caught.value.step == "websocket"
    gc.collect()


def test_an_answer_that_is_quicker_than_its_caller_is_not_awaited(shared_broker: TestBroker, topic: str) -> None:
    """Otherwise a full inbox would go on reading for it, up to four times its bound."""
    with MqttClient(settings_for(shared_broker.port)) as client:
        client.connect(timeout=60)
        send, answered = client._connection.subscribe, client._subscribed.answered
        arrived, handled = threading.Event(), threading.Event()

        def send_and_wait(*arguments: Any, **options: Any) -> Any:
            sent = send(*arguments, **options)
            assert arrived.wait(60)
            assert not handled.wait(0.1), "the answer was handled before its caller registered"
            return sent

        def arrive(mid: int, codes: list[int]) -> list[tuple[str, int]]:
            arrived.set()
            found = answered(mid, codes)
            handled.set()
            return found

        client._connection.subscribe = send_and_wait  # type: ignore[method-assign]
        client._subscribed.answered = arrive  # type: ignore[method-assign]
        client.subscribe(f"{topic}/a")
        assert client._connection.unanswered == {}
