"""What the bridge asks of the client: cutting a connection, and never acknowledging on another one."""

from __future__ import annotations

import threading

from mqttkit.client import MqttClient
from mqttkit.client.control import drop_connection, loop_ran_at
from mqttkit.messages import Message, Subscription
from mqttkit.testing.broker import TestBroker
from tests.support.bridges import mqtt_settings, publisher, wait_until


def test_cut_connection_brings_unacknowledged_messages_again(shared_broker: TestBroker, topic: str) -> None:
    """After `cut` the client connects again, the message comes again, and its old acknowledgement is not sent."""
    got: list[Message] = []
    came = threading.Condition()

    def receive(messages: list[Message]) -> None:
        with came:
            got.extend(messages)
            came.notify_all()

    settings = mqtt_settings(
        shared_broker.port, client_id=topic.replace("/", "-"), clean_session=False, session_expiry=60
    )
    with MqttClient(settings, on_messages=receive, manual_ack=True) as client, publisher(shared_broker.port) as other:
        client.connect(timeout=60)
        assert loop_ran_at(client) > 0
        client.subscribe(Subscription(topic, qos=1))
        other.publish(topic, b"once", qos=1, wait=60)
        with came:
            assert came.wait_for(lambda: len(got) == 1, 10)
        drop_connection(client)
        with came:
            assert came.wait_for(lambda: len(got) == 2, 20)
        first, second = got
        assert (first.payload, second.payload, second.dup) == (b"once", b"once", True)
        assert second.epoch == first.epoch + 1
        wait_until(lambda: client.connected)
        assert not client.ack(first)
        assert client.ack(second)
