"""Many connections in one loop."""

from __future__ import annotations

import contextlib
import socket
import time
import uuid
from pathlib import Path

import pytest

from mqttkit.bench.fleet import CONNECTING_AT_A_TIME, Fleet
from mqttkit.bench.histogram import LatencyHistogram
from mqttkit.bench.plan import Plan
from mqttkit.bench.publishing import LoadPublisher
from mqttkit.errors import BrokerUnreachable, ConnectionRefused, SubscriptionDenied
from mqttkit.messages import Message, Subscription
from mqttkit.stop import Stop
from mqttkit.testing.broker import TestBroker
from tests.support.brokers import Mosquitto, free_port, mosquitto
from tests.support.clients import settings_for
from tests.support.scripted_broker import scripted_broker

CONNACK = b"\x20\x03\x00\x00\x00"


@pytest.mark.parametrize("qos", [0, 1, 2])
def test_each_connection_gets_its_own_messages(shared_broker: TestBroker, qos: int) -> None:
    """Fifty publish, each to one other; every message arrives, and every publish has its outcome."""
    received: list[list[bytes]] = [[] for _ in range(50)]
    topic = f"fleet/{uuid.uuid4().hex}"

    def receive(number: int, messages: list[Message]) -> None:
        received[number] += [message.payload for message in messages]

    with Fleet(settings_for(shared_broker.port), receive=receive) as fleet:
        fleet.connect(50, Stop())
        fleet.subscribe([Subscription(f"{topic}/{number}", qos=qos) for number in range(50)], Stop())
        receipts = [fleet.publish(n, f"{topic}/{(n + 1) % 50}", b"%d" % n, qos) for n in range(50) for _ in range(3)]
        deadline = time.monotonic() + 60
        while sum(map(len, received)) < 150 or fleet.unresolved:
            assert time.monotonic() < deadline
            fleet.turn(0.05)
        assert all(receipt.ok for receipt in receipts)
        assert received == [[b"%d" % ((number - 1) % 50)] * 3 for number in range(50)]
        assert (fleet.lost, fleet.failure, fleet.connecting.total) == (0, None, 50)


def test_a_rate_is_a_schedule(shared_broker: TestBroker) -> None:
    """Latency counts from the time at which a message was due; each acknowledgement is counted."""
    plan = Plan(scenario="pub", topic=f"fleet/{uuid.uuid4().hex}", publishers=5, qos=1, size=0, rate=200, count=60)
    latencies = LatencyHistogram()
    with Fleet(settings_for(shared_broker.port)) as fleet:
        fleet.connect(5, Stop())
        began = time.monotonic()
        sent = LoadPublisher(plan, fleet, latencies).run(Stop())
    assert time.monotonic() - began >= 59 / 200
    assert (sent.messages, sent.outcomes["acknowledged"], latencies.total) == ((12,) * 5, 60, 60)


def test_a_stall_of_the_broker_is_in_every_latency() -> None:
    """No coordinated omission: what the stall delayed counts from its own due time, not from when it was sent."""
    stall, count = 0.5, 40

    def acknowledge_late(connection: socket.socket, _connect: bytes) -> bool:
        connection.sendall(b"\x20\x06\x00\x00\x03\x21\x00\x01")  # Receive Maximum 1
        if len(server.connects) == 1:  # the client that finds the broker
            return True
        for number in range(count):
            packet = connection.recv(4096)
            if not number:
                time.sleep(stall)
            start = 4 + int.from_bytes(packet[2:4], "big")
            connection.sendall(b"\x40\x02" + packet[start : start + 2])
        return True

    plan = Plan(scenario="pub", topic="t", publishers=1, qos=1, size=0, rate=400, count=count)
    latencies = LatencyHistogram()
    with (
        scripted_broker(acknowledge_late) as server,
        Fleet(settings_for(server.port, version="5")) as fleet,
    ):
        fleet.connect(1, Stop())
        LoadPublisher(plan, fleet, latencies).run(Stop())
    assert latencies.total == count
    assert latencies.quantile(0.05) / 1e9 > stall - count / plan.rate - 0.01


def test_a_lost_connection_is_reported_and_the_others_go_on(broker: Mosquitto) -> None:
    """`lost` counts it and `failure` says why."""
    with Fleet(settings_for(broker.port)) as fleet:
        fleet.connect(3, Stop())
        fleet.members[1].connection.drop()
        deadline = time.monotonic() + 60
        while fleet.failure is None:
            assert time.monotonic() < deadline
            fleet.turn(0.05)
        assert fleet.lost == 1
        assert "lost the connection to broker" in str(fleet.failure)
        receipt = fleet.publish(0, "fleet", b"x", 1)
        while not receipt.done:
            assert time.monotonic() < deadline
            fleet.turn(0.05)
        assert (receipt.ok, fleet.lost) == (True, 1)


def test_what_cannot_work_raises_the_error_of_the_first_connection(tmp_path: Path) -> None:
    """Unreachable, refused, or a subscription denied: the same errors as those of a single client."""
    with pytest.raises(BrokerUnreachable), Fleet(settings_for(free_port())) as fleet:
        fleet.connect(2, Stop())
    users = tmp_path / "users"
    users.write_text("")
    users.chmod(0o600)
    with (
        mosquitto(tmp_path / "broker", f"password_file {users}", anonymous=False) as broker,
        pytest.raises(ConnectionRefused),
        Fleet(settings_for(broker.port)) as fleet,
    ):
        fleet.connect(2, Stop())


def test_an_exception_while_reading_ends_that_connection_only(shared_broker: TestBroker) -> None:
    """As in the network thread of a client, whatever a packet makes paho or the receiver raise."""
    topic = f"fleet/{uuid.uuid4().hex}"

    def receive(number: int, _messages: list[Message]) -> None:
        if number == 0:
            raise LookupError("odd")

    with Fleet(settings_for(shared_broker.port), receive=receive) as fleet:
        fleet.connect(2, Stop())
        fleet.subscribe([Subscription(topic), Subscription(topic)], Stop())
        fleet.publish(1, topic, b"x", 1)
        deadline = time.monotonic() + 60
        while fleet.failure is None and time.monotonic() < deadline:
            fleet.turn(0.05)
        assert "unexpected packet: LookupError('odd')" in str(fleet.failure)
        assert [member.ended is None for member in fleet.members] == [False, True]


def test_a_denied_subscription_is_raised(shared_broker: TestBroker) -> None:
    """The broker's reason code is in the error."""

    def deny(connection: socket.socket, _connect: bytes) -> bool:
        connection.sendall(CONNACK)
        packet = connection.recv(4096)
        if packet[:1] == b"\x82":
            connection.sendall(b"\x90\x04" + packet[2:4] + b"\x00\x87")
        return packet[:1] == b"\x82"

    with scripted_broker(deny) as server, Fleet(settings_for(server.port, version="5")) as fleet:
        fleet.connect(1, Stop())
        with pytest.raises(SubscriptionDenied, match="not authorized"):
            fleet.subscribe([Subscription("a")], Stop())


@pytest.mark.parametrize("is_stopped", [False, True])
def test_connecting_ends_if_the_broker_stops_answering(is_stopped: bool) -> None:
    """Also with more connections than may wait for CONNACK at a time: the time limit ends it, and so does Ctrl-C."""
    stop = Stop()

    def answer_the_first_two(connection: socket.socket, _connect: bytes) -> bool:
        if len(server.connects) <= 2:  # the client that finds the broker, and one of the fleet
            connection.sendall(CONNACK)
        if is_stopped and len(server.connects) == CONNECTING_AT_A_TIME:
            stop.set()
        return True

    seconds = 60 if is_stopped else 3
    ends = contextlib.nullcontext() if is_stopped else pytest.raises(BrokerUnreachable, match="no CONNACK within 3 s")
    with (
        scripted_broker(answer_the_first_two) as server,
        Fleet(settings_for(server.port, version="5", connect_timeout=seconds)) as fleet,
    ):
        with ends:
            fleet.connect(200, stop)
        assert len(fleet.members) <= CONNECTING_AT_A_TIME + 1
