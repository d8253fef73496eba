"""What the steps of a visit to a broker share: the address, the logins, the connection made on the way."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace

from mqttkit.broker.probe import Login
from mqttkit.client import MqttClient
from mqttkit.client.transport.tls import make_context
from mqttkit.errors import LifecycleError
from mqttkit.messages import Message
from mqttkit.settings import BrokerSettings, MqttSettings

SECONDS = 5.0
RETAIN_AVAILABLE = 0x25
"""Property of a CONNACK (MQTT 5, 3.2.2.3.5)."""


class Visit:
    """One broker, examined as a client: the first of the addresses in the settings."""

    def __init__(self, settings: MqttSettings, topic: str, stack: ExitStack) -> None:
        self.settings = settings
        self.topic = topic
        self.host, self.port = settings.broker.addresses()[0]
        self.addresses: list[str] = []
        """Addresses of the host, once they were looked up."""
        self.context = make_context(settings.broker.tls) if settings.broker.tls else None
        self.broken = ""
        """The step that failed, after which the others mean nothing."""
        self.told: dict[int, int] = {}
        """Number properties of the CONNACK, once they were read."""
        self.main: MqttClient | None = None
        """The connection of the step connack."""
        self._stack = stack

    def obstacle(self) -> str:
        """Return the step that failed, or an empty string."""
        return self.broken

    def no_websocket(self) -> str:
        """Return that no WebSocket is asked for, or an empty string."""
        return "" if self.only.transport == "websockets" else "no WebSocket is asked for"

    def no_retained(self) -> str:
        """Return that the broker keeps no retained messages, or an empty string."""
        return "" if self.told.get(RETAIN_AVAILABLE, 1) else "the broker says that it keeps none"

    @property
    def only(self) -> BrokerSettings:
        """The broker's settings for this one address."""
        return replace(self.settings.broker, host=self.host, port=self.port, hosts=())

    def client(self, on_message: Callable[[Message], None] | None = None) -> MqttClient:
        """Return a client that is closed when the visit ends."""
        settings = replace(self.settings, broker=self.only, client=replace(self.settings.client, client_id=None))
        return self._stack.enter_context(MqttClient(settings, on_message=on_message, retry=False))

    def client_of_main(self) -> MqttClient:
        """Return the connection made; raise `LifecycleError` where there is none."""
        if self.main is None or not self.main.connected:
            raise LifecycleError("the connection is gone")
        return self.main

    def login(self, *, version: str = "5") -> Login:
        """Return the login for a CONNECT by hand."""
        return Login(
            host=self.host,
            port=self.port,
            version=version,
            username=self.only.username,
            password=self.only.password,
            tls=self.context,
            timeout=SECONDS,
        )

    def shake_hands(self) -> ssl.SSLSocket:
        """Return a TLS connection; raise OSError."""
        assert self.context is not None
        return _wrapped(self.context, self.host, self.port)

    def speaks_tls(self) -> bool:
        """Tell whether the port shakes hands at all, with whatever certificate."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        try:
            _wrapped(context, self.host, self.port).close()
        except OSError:
            return False
        return True


def _wrapped(context: ssl.SSLContext, host: str, port: int) -> ssl.SSLSocket:
    connection = socket.create_connection((host, port), timeout=SECONDS)
    try:
        return context.wrap_socket(connection, server_hostname=host)
    except BaseException:
        connection.close()
        raise
