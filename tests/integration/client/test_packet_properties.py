"""The MQTT 5 properties that a user adds to the client's packets, as a broker reads them."""

from __future__ import annotations

import contextlib
import socket
import threading

from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties as PahoProperties

from mqttkit.client import MqttClient
from mqttkit.client.receiving.splitter import remaining_length
from mqttkit.messages import Outcome, Properties, Will
from mqttkit.settings import BrokerSettings, MqttSettings, PropertySettings
from tests.support.scripted_broker import scripted_broker

CONNACK = bytes((0x20, 6, 0, 0, 3, 0x22, 0, 10))
"""Accepts, with a Topic Alias Maximum of 10."""
ADDED = PropertySettings(
    connect=("c=1",),
    subscribe=("s=2",),
    unsubscribe=("u=3",),
    disconnect=("d=4",),
    subscription_identifier=300,
    disconnect_expiry=60,
    request_problem_information=False,
    request_response_information=True,
    authentication_method="TOKEN",
    authentication_data="secret",
)


class Packets:
    """Answers each packet, and keeps it by its type."""

    def __init__(self) -> None:
        self.found: dict[int, list[bytes]] = {}
        self.ended = threading.Event()

    def serve(self, connection: socket.socket, data: bytes) -> bool:
        """Answer until the client closes."""
        with contextlib.suppress(OSError):
            while True:
                with contextlib.suppress(IndexError):
                    start, size = remaining_length(data, 0)
                    if len(data) >= start + size:
                        self._answer(connection, data[0], data[start : start + size])
                        data = data[start + size :]
                        continue
                more = connection.recv(4096)
                if not more:
                    break
                data += more
        self.ended.set()
        return False

    def _answer(self, connection: socket.socket, first: int, body: bytes) -> None:
        self.found.setdefault(first >> 4, []).append(body)
        short = {PacketTypes.SUBSCRIBE: 0x90, PacketTypes.UNSUBSCRIBE: 0xB0}
        if first >> 4 == PacketTypes.CONNECT:
            connection.sendall(CONNACK)
        elif first >> 4 in short:
            connection.sendall(bytes((short[first >> 4], 4)) + body[:2] + b"\0\0")
        elif first >> 4 == PacketTypes.PUBLISH:
            topic = int.from_bytes(body[:2], "big")
            connection.sendall(b"\x40\2" + body[2 + topic : 4 + topic])

    def properties(self, packet: int, place: int, number: int = 0, kind: int = 0) -> dict[str, object]:
        """Return the properties at a place of a packet's body, by paho's names; `kind` if it is not the packet's."""
        read = PahoProperties(kind or packet)
        read.unpack(self.found[packet][number][place:])
        return dict(read.json())


def test_added_properties_are_on_the_wire() -> None:
    """CONNECT, will, SUBSCRIBE, UNSUBSCRIBE and DISCONNECT."""
    seen = Packets()
    will = Will("w", b"x", properties=Properties(content_type="text/plain", user_properties=(("n", "v"),)))
    with scripted_broker(seen.serve) as server:
        broker = BrokerSettings(host="127.0.0.1", port=server.port)
        with MqttClient(MqttSettings(broker=broker, properties=ADDED), will=will) as client:
            client.connect(timeout=60)
            client.subscribe("a", timeout=60)
            client.unsubscribe("a", timeout=60)
        assert seen.ended.wait(60)
    connect = seen.properties(PacketTypes.CONNECT, 10)
    assert connect["UserProperty"] == [("c", "1")]
    assert (connect["RequestProblemInformation"], connect["RequestResponseInformation"]) == (0, 1)
    assert connect["AuthenticationMethod"] == "TOKEN"
    assert seen.found[PacketTypes.CONNECT][0].endswith(b"\0\1w\0\1x")
    assert b"text/plain" in seen.found[PacketTypes.CONNECT][0]
    subscribe = {"SubscriptionIdentifier": [300], "UserProperty": [("s", "2")]}
    assert seen.properties(PacketTypes.SUBSCRIBE, 2) == subscribe
    assert seen.properties(PacketTypes.UNSUBSCRIBE, 2) == {"UserProperty": [("u", "3")]}
    disconnect = {"SessionExpiryInterval": 60, "UserProperty": [("d", "4")]}
    assert seen.properties(PacketTypes.DISCONNECT, 1) == disconnect


def test_a_topic_alias_is_sent_up_to_the_brokers_maximum() -> None:
    """The topic name goes with it, so a broker that takes none loses nothing."""
    seen = Packets()
    with scripted_broker(seen.serve) as server:
        with MqttClient(MqttSettings(broker=BrokerSettings(host="127.0.0.1", port=server.port))) as client:
            client.connect(timeout=60)
            for alias in (10, 11, 0):
                receipt = client.publish("t", b"x", qos=1, properties=Properties(topic_alias=alias))
                assert receipt.wait(60) is Outcome.ACKNOWLEDGED
        assert seen.ended.wait(60)
    found = [seen.properties(PacketTypes.PUBLISH, 5, number) for number in range(3)]
    assert found == [{"TopicAlias": 10}, {}, {}]
    assert all(body.startswith(b"\0\1t") for body in seen.found[PacketTypes.PUBLISH])
