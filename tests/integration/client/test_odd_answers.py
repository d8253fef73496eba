"""Answers that no specification allows, from a scripted broker: the outcome is told, and the thread lives."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from mqttkit.client import MqttClient
from mqttkit.client.control import round_trip
from mqttkit.client.subscriptions import RETRIES
from mqttkit.errors import (
    BrokerUnreachable,
    ConnectionRefused,
    PublishDenied,
    PublishFailed,
    PublishLost,
    SubscriptionDenied,
    TimedOut,
)
from mqttkit.messages import Message, Subscription
from mqttkit.publisher import Publisher
from mqttkit.subscriber import Subscriber
from tests.support.clients import settings_for
from tests.support.scripted_broker import scripted_broker

CONNACK_5, CONNACK_311 = b"\x20\x03\x00\x00\x00", b"\x20\x02\x00\x00"


def answering(connack: bytes, answer: Callable[[bytes], bytes]) -> Callable[[socket.socket, bytes], bool]:
    """Return a script: accept with `connack`, then answer one packet by its packet identifier."""

    def script(connection: socket.socket, _connect: bytes) -> bool:
        connection.sendall(connack)
        packet = connection.recv(4096)
        if packet:
            start = 2 if packet[0] & 0xF0 == 0x80 else 4 + int.from_bytes(packet[2:4], "big")
            connection.sendall(answer(packet[start : start + 2]))
        return True

    return script


@pytest.mark.parametrize(
    ("version", "connack", "code"),
    [("5", b"\x20\x03\x00\x99\x00", 0x99), ("5", b"\x20\x03\x00\xff\x00", 0xFF), ("311", b"\x20\x02\x00\x07", 7)],
)
def test_an_unknown_code_in_connack_is_a_refusal(version: str, connack: bytes, code: int) -> None:
    """The error names the code and ends with exit code 4."""
    with (
        scripted_broker(lambda connection, _connect: connection.sendall(connack) is None) as server,
        MqttClient(settings_for(server.port, version=version)) as client,
        pytest.raises(ConnectionRefused, match=f"refused the connection: reason code 0x{code:02x}") as caught,
    ):
        client.connect(timeout=60)
    assert (caught.value.code, caught.value.exit_code) == (code, 4)


@pytest.mark.parametrize("code", [0x92, 0x9B, 0xB9, 0xC0, 0xFF])
@pytest.mark.parametrize(("qos", "first"), [(1, 0x40), (2, 0x50)])
def test_an_unknown_failure_denies_the_publish(qos: int, first: int, code: int) -> None:
    """In PUBACK and in PUBREC: the receipt has the code, and the connection stays."""
    script = answering(CONNACK_5, lambda mid: bytes((first, 3)) + mid + bytes((code,)))
    with scripted_broker(script) as server, MqttClient(settings_for(server.port, version="5")) as client:
        client.connect(timeout=60)
        with pytest.raises(PublishDenied) as caught:
            client.publish("t", b"x", qos=qos).result(timeout=60)
        assert (caught.value.code, caught.value.exit_code) == (code, 6)
        assert client.stats.disconnects == 0


@pytest.mark.parametrize("codes", [b"", b"\x00", b"\x00\x00\x00"])
def test_a_suback_with_the_wrong_number_of_codes_ends_the_connection(codes: bytes) -> None:
    """The caller learns that the connection was lost, and the client connects again."""
    script = answering(CONNACK_311, lambda mid: bytes((0x90, 2 + len(codes))) + mid + codes)
    with scripted_broker(script) as server, MqttClient(settings_for(server.port, version="311")) as client:
        client.connect(timeout=60)
        with pytest.raises(BrokerUnreachable, match=r"unexpected packet: .*SUBACK"):
            client.subscribe("a", "b", timeout=60)
        assert not client.given_up


def packets_of(connection: socket.socket) -> Iterator[bytes]:
    """Yield each packet that the client sends, of less than 128 bytes, until it hangs up."""
    data = b""
    while True:
        while len(data) >= 2 and len(data) >= 2 + data[1]:
            yield data[: 2 + data[1]]
            data = data[2 + data[1] :]
        more = connection.recv(4096)
        if not more:
            return
        data += more


def test_a_lone_publish_answered_by_a_hang_up_is_not_acknowledged() -> None:
    """Exit code 6, as documented: the broker was reached."""

    def hang_up(connection: socket.socket, _connect: bytes) -> bool:
        connection.sendall(CONNACK_5)
        connection.recv(4096)
        return False

    with (
        scripted_broker(hang_up) as server,
        MqttClient(settings_for(server.port, version="5"), retry=False) as client,
    ):
        client.connect(timeout=60)
        publisher = Publisher(client)
        with pytest.raises(PublishLost, match="not acknowledged: lost the connection") as caught:
            publisher.send([Message("t", b"x", 1)])
            publisher.finish(60)
    assert caught.value.exit_code == 6


@pytest.mark.parametrize("connack", [b"", CONNACK_5])
def test_the_time_limit_of_a_subscriber_covers_connack_and_suback(connack: bytes) -> None:
    """`sub -W` ends with 27 whatever the broker leaves unanswered; the message names it."""
    with scripted_broker(lambda connection, _connect: connection.sendall(connack) is None) as server:
        began, seconds = time.monotonic(), 3.0 if connack else 0.3  # enough for the CONNACK
        subscriber = Subscriber(settings_for(server.port, version="5"), [Subscription("t")], seconds=seconds)
        with pytest.raises(TimedOut, match="SUBSCRIBE" if connack else "CONNACK"), subscriber:
            pass
    assert seconds <= time.monotonic() - began < 60


CONNACK_LIMITED = b"\x20\x0b\x00\x00\x08\x24\x00\x25\x00\x28\x00\x2a\x00"
"""Maximum QoS 0, and neither retained messages, wildcards nor shared subscriptions."""


def limited(received: list[bytes]) -> Callable[[socket.socket, bytes], bool]:
    """Return a script: accept with limits, and answer each SUBSCRIBE."""

    def script(connection: socket.socket, _connect: bytes) -> bool:
        connection.sendall(CONNACK_LIMITED)
        for packet in packets_of(connection):
            received.append(packet)
            if packet[0] & 0xF0 == 0x80:
                connection.sendall(b"\x90\x04" + packet[2:4] + b"\x00\x00")
        return True

    return script


def test_what_the_broker_has_not_is_refused_with_a_hint() -> None:
    """Nothing is sent, and the error says what to do."""
    received: list[bytes] = []
    with scripted_broker(limited(received)) as server, MqttClient(settings_for(server.port, version="5")) as client:
        client.connect(timeout=60)
        for topic_filter in ("a/#", "$share/g/a"):
            with pytest.raises(SubscriptionDenied, match="not supported") as caught:
                client.subscribe(topic_filter, timeout=60)
            assert caught.value.hint
        publisher = Publisher(client)
        publisher.send([Message("t", b"x", 1)])
        with pytest.raises(PublishFailed, match="the broker takes QoS 0 at most") as lost:
            publisher.finish(60)
        assert lost.value.hint == "Use -q 0"
    assert [packet[0] & 0xF0 for packet in received] == [0xE0]


def test_json_asks_for_what_the_broker_has_and_counts_what_it_lowers(caplog: pytest.LogCaptureFixture) -> None:
    """SUBSCRIBE with QoS 0; messages go without QoS and retain flag, and a warning counts them."""
    received: list[bytes] = []
    with scripted_broker(limited(received)) as server:
        settings = settings_for(server.port, version="5")
        with Subscriber(settings, [Subscription("t", 2)], lower_qos=True) as subscriber:
            publisher = Publisher(subscriber.client, lower=True)
            publisher.send([Message("t", b"x", 2), Message("t", b"x", 0, True), Message("t", b"x")])
            publisher.finish(60)
    assert received[0][-1] & 3 == 0
    assert [packet[0] for packet in received if packet[0] & 0xF0 == 0x30] == [0x30] * 3
    assert "2 of 3 messages published with a lower QoS" in caplog.text


@pytest.mark.parametrize("denials", [2, len(RETRIES) + 1])
def test_a_subscription_granted_before_is_asked_for_again(denials: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cluster without a leader denies with 0x80: final only after several attempts; never at the first time."""
    monkeypatch.setattr("mqttkit.client.subscriptions.RETRIES", (0.01,) * len(RETRIES))
    monkeypatch.setattr("mqttkit.client.network_thread.LOOP_SECONDS", 0.02)
    asked: list[bytes] = []
    settled = threading.Event()

    def script(connection: socket.socket, _connect: bytes) -> bool:
        connection.sendall(CONNACK_311)
        for packet in packets_of(connection):
            if packet[0] & 0xF0 == 0x80:
                asked.append(packet)
                granted = len(asked) == 1 or len(asked) == denials + 2
                connection.sendall(b"\x90\x03" + packet[2:4] + (b"\x00" if granted else b"\x80"))
                if len(asked) == 1:
                    return False
                if granted:
                    settled.set()
        return True

    with scripted_broker(script) as server, MqttClient(settings_for(server.port, version="311")) as client:
        client.on_denied = lambda _error: settled.set()
        client.connect(timeout=60)
        client.subscribe("t", timeout=60)
        assert settled.wait(60)
    assert (bool(client.denied), len(asked)) == (denials > len(RETRIES), min(denials + 2, len(RETRIES) + 2))


def test_a_first_denial_is_final() -> None:
    """Nothing says that it will pass."""
    script = answering(CONNACK_311, lambda mid: b"\x90\x03" + mid + b"\x80")
    with scripted_broker(script) as server, MqttClient(settings_for(server.port, version="311")) as client:
        client.connect(timeout=60)
        with pytest.raises(SubscriptionDenied):
            client.subscribe("t", timeout=60)


def test_an_unknown_failure_in_suback_is_a_denial() -> None:
    """Exit code 5, with the code."""
    script = answering(CONNACK_5, lambda mid: b"\x90\x04" + mid + b"\x00\xc1")
    with scripted_broker(script) as server, MqttClient(settings_for(server.port, version="5")) as client:
        client.connect(timeout=60)
        with pytest.raises(SubscriptionDenied, match="reason code 0xc1") as caught:
            client.subscribe("t", timeout=60)
    assert (caught.value.code, caught.value.exit_code) == (0xC1, 5)


def test_a_subscription_that_was_never_answered_is_repeated_in_a_session_that_is_kept() -> None:
    """The broker lost the session, and the connection ended before the SUBACK: the new session has no subscription."""
    repeated = threading.Event()

    def script(connection: socket.socket, _connect: bytes) -> bool:
        number = len(server.connects)
        connection.sendall(b"\x20\x02\x01\x00" if number == 3 else CONNACK_311)
        for packet in packets_of(connection):
            if packet[0] & 0xF0 == 0x80:
                if number == 3:
                    repeated.set()
                if number != 2:
                    connection.sendall(b"\x90\x03" + packet[2:4] + b"\x00")
                return number == 3
        return True

    kept = {"clean_session": False, "client_id": "kept"}
    with scripted_broker(script) as server, MqttClient(settings_for(server.port, version="311", **kept)) as client:
        client.connect(timeout=60)
        client.subscribe("t", timeout=60)
        assert repeated.wait(60)


def test_answers_that_nobody_asked_for_are_not_kept() -> None:
    """Neither those of a broker that sends them on its own, nor those to the UNSUBSCRIBE of a round trip."""
    unasked = b"".join(b"\x90\x03" + mid.to_bytes(2, "big") + b"\x00" for mid in range(50_000, 50_100))

    def script(connection: socket.socket, _connect: bytes) -> bool:
        connection.sendall(CONNACK_311)
        for packet in packets_of(connection):
            if packet[0] & 0xF0 == 0x80:
                connection.sendall(unasked + b"\x90\x03" + packet[2:4] + b"\x00")
            elif packet[0] & 0xF0 == 0xA0:
                connection.sendall(b"\xb0\x02" + packet[2:4])
        return True

    with scripted_broker(script) as server, MqttClient(settings_for(server.port, version="311")) as client:
        client.connect(timeout=60)
        for _ in range(3):
            round_trip(client, 60)
        client.unsubscribe("t", timeout=60)
        subscribed = client._subscribed
        assert (subscribed._answers, subscribed._pending, client._connection.unanswered) == ({}, {}, {})


def test_connect_says_how_large_a_packet_may_be() -> None:
    """Maximum Packet Size (MQTT 5, 3.1.2.11.4): 64 MiB, unless the settings have another."""
    with scripted_broker(lambda connection, _connect: connection.sendall(CONNACK_5) is None) as server:
        for limits in ({}, {"max_packet_size": 2_000}):
            with MqttClient(settings_for(server.port, version="5", **limits)) as client:
                client.connect(timeout=60)
    assert [each[each.index(b"\x27") + 1 :][:4] for each in server.connects] == [b"\4\0\0\0", b"\0\0\7\xd0"]
