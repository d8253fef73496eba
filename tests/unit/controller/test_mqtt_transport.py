"""Subscriptions of the MQTT transport."""

from __future__ import annotations

from typing import Any

import pytest

from mqttkit.client import ConnectionState
from mqttkit.controller.transports.mqtt import MqttTransport
from mqttkit.errors import BrokerUnreachable, SubscriptionDenied
from mqttkit.messages import Subscription
from tests.support.controllers import broker_at, eventually


class Answers:
    """The client of a transport, which answers SUBSCRIBE as it is told."""

    def __init__(self, *answers: Exception | None) -> None:
        self.connected = False
        self.session_present = False
        self.asked: list[str] = []
        self._answers = list(answers)

    def subscribe(self, subscription: Subscription) -> None:
        """Answer."""
        self.asked.append(subscription.topic_filter)
        answer = self._answers.pop(0) if self._answers else None
        if answer is not None:
            raise answer

    def close(self) -> None:
        """Do nothing."""


def transport_with(client: Any) -> MqttTransport:
    """A transport with that client."""
    transport = MqttTransport(broker_at(1), "rc-1")
    transport.client.close()
    transport.client = client
    return transport


def test_a_connection_that_comes_up_while_a_filter_is_added_finds_it() -> None:
    """Novelty as away when it was looked at, told of before the call returned: subscribed all the same."""

    class JustNow(Answers):
        @property
        def connected(self) -> bool:  # type: ignore[override]
            """Come up right after it was looked at."""
            if not self.up:
                self.up = True
                transport._changed(transport.client, ConnectionState.CONNECTED, "")
                return False
            return True

        @connected.setter
        def connected(self, value: bool) -> None:
            self.up = value

    client = JustNow()
    transport = transport_with(client)
    transport.subscribe("a/#")
    eventually(lambda: not transport._open_filters)
    transport.close()
    assert client.asked == ["a/#"]


def test_a_subscription_without_an_answer_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection was lost, or the broker slow: that is no reason for the controller to end."""
    monkeypatch.setattr("mqttkit.controller.transports.mqtt.AGAIN_SECONDS", 0.01)
    lost = BrokerUnreachable("broker:1883", "mqtt", "no SUBACK came")
    client = Answers(lost, lost, None)
    client.connected = True
    transport = transport_with(client)
    transport.subscribe("a/#")
    eventually(lambda: not transport._open_filters)
    assert client.asked == ["a/#"] * 3
    transport.close()


def test_a_denied_subscription_is_forgotten_or_waits_for_the_next_connection() -> None:
    """At once it raises; in the background it is said, and tried once a connection."""
    client = Answers(*[SubscriptionDenied("a/#", "not authorized", code=135)] * 3)
    client.connected = True
    transport = transport_with(client)
    with pytest.raises(SubscriptionDenied):
        transport.subscribe("a/#")
    assert not transport._open_filters
    client.connected = False
    transport.subscribe("b/#")
    client.connected = True
    for tries in (1, 2):
        transport._changed(transport.client, ConnectionState.CONNECTED, "")
        eventually(lambda tries=tries: client.asked == ["a/#"] + ["b/#"] * tries and transport._subscriber is None)
    transport.close()
