"""A client without a thread of its own: each call pumps the socket until its answer is there."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.properties import Properties

SECONDS = 60.0


class Probe:
    """One MQTT 5 connection to a loopback broker."""

    def __init__(
        self,
        port: int,
        username: str | None = None,
        password: str | None = None,
        *,
        client_id: str = "",
        tls: dict[str, Any] | None = None,
        properties: Properties | None = None,
        clean: bool = True,
    ) -> None:
        self.client = paho.Client(CallbackAPIVersion.VERSION2, client_id=client_id, protocol=MQTTProtocolVersion.MQTTv5)
        self.client.username_pw_set(username, password)
        if tls is not None:
            self.client.tls_set(**tls)
        self.code: int | None = None
        """CONNACK's reason code; None until it came, or where the connection closed without one."""
        self.closed = False
        self.messages: list[paho.MQTTMessage] = []
        self._answers: dict[int, int] = {}
        self.client.on_connect = self._on_connect
        self.client.on_disconnect = self._on_disconnect
        self.client.on_message = lambda client, data, message: self.messages.append(message)
        self.client.on_publish = lambda client, data, mid, code, properties: self._answer(mid, code.value)
        self.client.on_subscribe = lambda client, data, mid, codes, properties: self._answer(mid, codes[0].value)
        self.client.connect("127.0.0.1", port, clean_start=clean, properties=properties)
        self.pump(lambda: self.code is not None or self.closed)

    def publish(self, topic: str, payload: bytes = b"x", *, qos: int = 1, retain: bool = False) -> int:
        """Publish and return PUBACK's reason code."""
        mid = self.client.publish(topic, payload, qos=qos, retain=retain).mid
        if qos == 0:
            return 0
        self.pump(lambda: mid in self._answers)
        return self._answers.pop(mid)

    def subscribe(self, topic_filter: str, qos: int = 1) -> int:
        """Subscribe and return SUBACK's reason code."""
        mid = self.client.subscribe(topic_filter, qos)[1]
        assert mid is not None
        self.pump(lambda: mid in self._answers)
        return self._answers.pop(mid)

    def wait_for_messages(self, count: int) -> list[paho.MQTTMessage]:
        """Return the messages once there are this many."""
        self.pump(lambda: len(self.messages) >= count)
        return self.messages

    def wait_closed(self) -> None:
        """Return when the broker has ended the connection."""
        self.pump(lambda: self.closed)

    def pump(self, done: Callable[[], bool], seconds: float = SECONDS) -> None:
        """Do network work until `done`; fail after the seconds."""
        deadline = time.monotonic() + seconds
        while not done():
            assert time.monotonic() < deadline, "the broker did not answer in time"
            self.client.loop(0.05)

    def close(self) -> None:
        """Disconnect and close every socket."""
        self.client.disconnect()
        self.client.loop(0)
        self.client._reset_sockets()

    def __enter__(self) -> Probe:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _on_connect(self, client: Any, data: Any, flags: Any, code: Any, properties: Any) -> None:
        self.code = code.value

    def _on_disconnect(self, client: Any, data: Any, flags: Any, code: Any, properties: Any) -> None:
        self.closed = True

    def _answer(self, mid: int, code: int) -> None:
        self._answers[mid] = code


def login(port: int, username: str | None, password: str | None, **more: Any) -> int | None:
    """Return CONNACK's reason code for these credentials: 0 is in, 135 is not authorised."""
    with Probe(port, username, password, **more) as probe:
        return probe.code
