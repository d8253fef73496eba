"""Subscriber and Publisher as a library, against a real broker."""

from __future__ import annotations

import itertools
import signal
import socket
import threading
from pathlib import Path

import pytest

from mqttkit.client import MqttClient
from mqttkit.errors import BrokerUnreachable, ConnectionRefused, PublishFailed, TimedOut, TopicError
from mqttkit.messages import Message, Subscription
from mqttkit.publisher import Publisher
from mqttkit.subscriber import ReadOptions, Subscriber
from mqttkit.testing.broker import TestBroker
from tests.support.brokers import Mosquitto, free_port, mosquitto
from tests.support.clients import settings_for, wait_until
from tests.support.scripted_broker import scripted_broker


def send(port: int, *messages: Message) -> None:
    """Publish messages, and wait until the broker has them."""
    with MqttClient(settings_for(port)) as client:
        client.connect()
        sender = Publisher(client)
        sender.send(messages)
        sender.finish(60)
        assert (sender.delivered, sender.failed) == (len(messages), 0)


def test_a_subscriber_is_an_iterator_of_messages(shared_broker: TestBroker, topic: str) -> None:
    """Messages come in order, whatever their QoS; leaving the block disconnects."""
    with Subscriber(settings_for(shared_broker.port), [Subscription(f"{topic}/#", qos=1)]) as subscriber:
        assert subscriber.granted == [1]
        send(shared_broker.port, *[Message(f"{topic}/{number}", b"%d" % number, 1) for number in range(50)])
        payloads = [int(message.payload) for message in itertools.islice(subscriber, 50)]
    assert payloads == list(range(50))
    assert not subscriber.client.connected


def test_stop_ends_the_iteration_from_another_thread(shared_broker: TestBroker, topic: str) -> None:
    """A reader that waits is let go, and the reason is kept."""
    with Subscriber(settings_for(shared_broker.port), [Subscription(topic)]) as subscriber:
        stopper = threading.Timer(0.05, subscriber.stop, ("enough",))
        stopper.start()
        assert list(subscriber) == []
        stopper.join()
    assert subscriber.stopped == "enough"


def test_time_runs_out_behind_the_messages_that_came(shared_broker: TestBroker, topic: str) -> None:
    """TimedOut is raised after what came in time was handed over."""
    with Subscriber(settings_for(shared_broker.port), [Subscription(topic)]) as subscriber:
        send(shared_broker.port, Message(topic, b"x"))
        wait_until(lambda: not subscriber.queue.empty)
        batches = subscriber.batches(ReadOptions(count=2, seconds=0.5))
        assert next(batches).messages[0].payload == b"x"
        with pytest.raises(TimedOut):
            next(batches)


def test_a_connection_that_ends_for_good_is_raised_behind_its_messages(broker: Mosquitto, topic: str) -> None:
    """Without retry the reader gets what came, then the error."""
    with Subscriber(settings_for(broker.port), [Subscription(topic)], retry=False) as subscriber:
        send(broker.port, Message(topic, b"x"))
        wait_until(lambda: not subscriber.queue.empty)
        broker.stop(signal.SIGKILL)
        messages = iter(subscriber)
        assert next(messages).payload == b"x"
        with pytest.raises(BrokerUnreachable):
            next(messages)


def test_retained_only_does_not_end_well_where_the_broker_ends(broker: Mosquitto, topic: str) -> None:
    """A broker that dies before it has answered is an error, not an end."""
    with Subscriber(settings_for(broker.port), [Subscription(topic)], retry=False) as subscriber:
        broker.signal(signal.SIGSTOP)
        batches = subscriber.batches(ReadOptions(retained_only=True))
        killer = threading.Timer(0.2, broker.stop, (signal.SIGKILL,))
        killer.start()
        with pytest.raises(BrokerUnreachable):
            next(batches)
        killer.join()


def test_a_failed_start_leaves_nothing_running(tmp_path: Path, topic: str) -> None:
    """Entering raises what the connection raises, and no thread is left."""
    before = threading.active_count()
    with pytest.raises(BrokerUnreachable), Subscriber(settings_for(free_port()), [Subscription(topic)]):
        pass
    with mosquitto(tmp_path, anonymous=False) as broker:
        with pytest.raises(ConnectionRefused), Subscriber(settings_for(broker.port), [Subscription(topic)]):
            pass
        with pytest.raises(TopicError):
            Subscriber(settings_for(broker.port), [Subscription("a/#/b")])
    wait_until(lambda: threading.active_count() <= before)


def test_a_sender_names_the_topic_that_a_message_cannot_go_to(shared_broker: TestBroker, topic: str) -> None:
    """A malformed topic name is an error before it is sent; what was sent before stays sent."""
    with MqttClient(settings_for(shared_broker.port)) as client:
        client.connect()
        sender = Publisher(client)
        with pytest.raises(TopicError):
            sender.send([Message(topic, b"x"), Message("a/#", b"y")])
        sender.finish(60)
        assert sender.delivered == 1


def test_a_sender_raises_what_made_the_client_give_up(broker: Mosquitto, topic: str) -> None:
    """Where there is no retry a broker that went away is the error of the next message."""
    with MqttClient(settings_for(broker.port), retry=False) as client:
        client.connect()
        sender = Publisher(client)
        broker.stop(signal.SIGKILL)
        wait_until(lambda: client.given_up)
        with pytest.raises(BrokerUnreachable):
            sender.send([Message(topic, b"x")])


def test_a_silent_broker_is_no_proof(topic: str) -> None:
    """QoS 0 to a broker that never answers again is not confirmed."""

    def silent(connection: socket.socket, _connect: bytes) -> bool:
        connection.sendall(bytes((0x20, 3, 0, 0, 0)))
        return True

    with scripted_broker(silent) as broker, MqttClient(settings_for(broker.port, version="5")) as client:
        client.connect()
        sender = Publisher(client)
        sender.send([Message(topic, b"x")])
        with pytest.raises(PublishFailed, match="delivery not confirmed"):
            sender.finish(0.2)


def test_a_large_message_over_a_slow_link_takes_its_time() -> None:
    """The time limit of `finish` begins when the last byte was sent, not while bytes leave."""
    payload, may_read = bytes(20_000_000), threading.Semaphore(0)

    def read_slowly(connection: socket.socket, _connect: bytes) -> bool:
        connection.sendall(b"\x20\x03\x00\x00\x00")
        connection.settimeout(60)
        left = len(payload)
        while left > 0:
            may_read.acquire()
            stop = max(left - 1_000_000, 0)
            while left > stop:
                piece = connection.recv(min(100_000, left))
                if not piece:
                    return False
                left -= len(piece)
        connection.sendall(b"\x40\x02\x00\x01")
        return True

    with scripted_broker(read_slowly) as broker, MqttClient(settings_for(broker.port, version="5")) as client:
        client.connect()
        flush, waits = client.flush, list[bool]()

        def flush_while_bytes_leave(_timeout: float) -> bool:
            """Let the broker read some megabytes, as it would within the time limit of a slow link."""
            enough = min(client.stats.sent_bytes + 1_000_000, len(payload))

            def read_more() -> bool:
                may_read.release()
                return client.stats.sent_bytes >= enough

            wait_until(read_more)
            waits.append(client.stats.sent_bytes < len(payload))
            if not waits[-1]:
                may_read.release(20)  # for all that is left, one megabyte each
            return flush(0 if waits[-1] else 60)

        client.flush = flush_while_bytes_leave  # type: ignore[method-assign]
        publisher = Publisher(client)
        publisher.send([Message("t", payload, 1)])
        publisher.finish(1)
        assert publisher.delivered == 1
        assert any(waits), "all bytes left within one time limit"
