"""Control over a client's connection for mqttkit's own services. Applications do not need it."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

from mqttkit.client.client import MqttClient
from mqttkit.client.packets.reason_codes import DENIED
from mqttkit.messages import Subscription


def connection_number(client: MqttClient) -> int:
    """Return the number of the client's connection, counted from 1; 0 before the first. Any thread."""
    return client._number


def on_resolved(client: MqttClient, handler: Callable[[], None]) -> None:
    """Call `handler` after each batch of publishes whose outcome became known, in the thread that found it out."""
    client._outbox.on_resolved = handler


def loop_ran_at(client: MqttClient) -> float:
    """Return when the network thread last ran its loop, on the monotonic clock; 0 before it starts. Any thread."""
    return client._thread.ran_at


def drop_connection(client: MqttClient) -> None:
    """End the connection without DISCONNECT, so that the broker sends unacknowledged messages again.

    For a receiver that cannot take more. The client reconnects after the usual wait. Any thread.
    """
    client._connection.drop()


def set_credentials(client: MqttClient, username: str, password: str) -> None:
    """Use another user name and password from the next connection on. Only the network thread, before it connects."""
    client._connection.username_pw_set(username, password)


def deliver_plain(client: MqttClient) -> None:
    """Let `on_messages` get tuples with the fields of Message but not their names. Before the client connects.

    They are quicker to make, for a receiver that needs only topic names and payloads.
    """
    client._connection.attach(client._outbox, client._handle_messages, plain=True)


def hold_reading(client: MqttClient, level: int) -> None:
    """Hold the broker back for a full inbox, as `MessageQueue` asks for. Any thread."""
    client._connection.hold_reading(level)


def round_trip(client: MqttClient, timeout: float) -> None:
    """Return once the broker has answered everything sent before; wait up to `timeout` seconds.

    It sends SUBSCRIBE for a topic filter that only this client uses and waits for the SUBACK: a broker answers in
    order (MQTT 5, 4.6), and a denial is an answer too. UNSUBSCRIBE alone would need no rights, but rumqttd does not
    answer it.
    Raises BrokerUnreachable if no answer arrives. Any thread but the network thread.
    """
    deadline = time.monotonic() + timeout
    private = "mqttkit/round-trip/" + re.sub("[+#/]", "-", client.client_id)
    codes = client._subscribed.ask((Subscription(private),), client._number, deadline)
    if codes[0] < DENIED:
        client._connection.unsubscribe(private)
