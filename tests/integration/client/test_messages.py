"""Iterating over the messages of a client: in order, ending when it should, never hanging."""

from __future__ import annotations

import signal
import threading
import time

import pytest

from mqttkit.client import MqttClient
from mqttkit.errors import BrokerUnreachable, UsageError
from mqttkit.messages import Subscription
from mqttkit.testing.broker import TestBroker
from tests.support.brokers import Mosquitto
from tests.support.clients import settings_for, wait_until


def test_messages_come_in_order_until_none_comes_for_a_while(shared_broker: TestBroker, topic: str) -> None:
    """Plain strings subscribe and publish; iteration ends after `timeout` seconds of silence."""
    with MqttClient(settings_for(shared_broker.port)) as client:
        client.connect(timeout=60)
        assert client.subscribe(f"{topic}/#", Subscription(f"{topic}/own", qos=0), qos=1) == [1, 0]
        for number in range(100):
            client.publish(f"{topic}/{number}", str(number), qos=1).result(timeout=60)
        wait_until(lambda: client.stats.received == 100)
        assert [int(message.text) for message in client.messages(timeout=0.3)] == list(range(100))
        assert client.stats.received == 100


def test_closing_ends_the_iteration_of_another_thread(shared_broker: TestBroker, topic: str) -> None:
    """A reader that waits without a time limit ends, after the messages that had arrived."""
    client = MqttClient(settings_for(shared_broker.port))
    client.connect(timeout=60)
    client.subscribe(topic, qos=1)
    client.publish(topic, "x", qos=1).result(timeout=60)
    wait_until(lambda: client.stats.received == 1)
    got: list[str] = []
    reader = threading.Thread(target=lambda: got.extend(message.text for message in client.messages()))
    reader.start()
    wait_until(lambda: got == ["x"])
    client.close()
    reader.join(60)
    assert not reader.is_alive()
    assert list(client.messages()) == []


def test_a_connection_that_ends_for_good_is_raised_after_its_messages(broker: Mosquitto, topic: str) -> None:
    """Without retry the reader gets what arrived, then the failure."""
    with MqttClient(settings_for(broker.port), retry=False) as client:
        client.connect(timeout=60)
        client.subscribe(topic, qos=1)
        client.publish(topic, "x", qos=1).result(timeout=60)
        wait_until(lambda: client.stats.received == 1)
        broker.stop(signal.SIGKILL)
        messages = client.messages()
        assert next(messages).text == "x"
        with pytest.raises(BrokerUnreachable):
            next(messages)


def test_stats_are_a_snapshot(shared_broker: TestBroker, topic: str) -> None:
    """What was read before does not change when the counters do."""
    with MqttClient(settings_for(shared_broker.port)) as client:
        client.connect(timeout=60)
        before = client.stats
        client.publish(topic, "x", qos=1).result(timeout=60)
        assert sum(before.published.values()) == 0
        assert sum(client.stats.published.values()) == 1


def test_iterating_needs_a_connection_and_no_handler() -> None:
    """Both are errors at once, not a reader that waits for ever."""
    began = time.monotonic()
    with pytest.raises(UsageError, match="not connected"):
        next(MqttClient(settings_for(1)).messages())
    with pytest.raises(UsageError, match="on_message"):
        next(MqttClient(settings_for(1), on_message=print).messages())
    assert time.monotonic() - began < 30
