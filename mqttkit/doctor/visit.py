"""What the steps of a visit to a broker share: the address, the logins, the main connection."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace

from mqttkit.broker.probe import Login, unverified_tls
from mqttkit.client import MqttClient
from mqttkit.client.transport.tls import make_context
from mqttkit.errors import LifecycleError, UsageError
from mqttkit.messages import Message
from mqttkit.settings import BrokerSettings, MqttSettings

SECONDS = 5.0
RETAIN_AVAILABLE = 0x25
"""Property of a CONNACK (MQTT 5, 3.2.2.3.5)."""


class Visit:
    """One broker, examined as a client, at the first address of the settings."""

    def __init__(self, settings: MqttSettings, topic: str, stack: ExitStack) -> None:
        self.settings = settings
        self.topic = topic
        if settings.broker.unix_socket is not None:
            raise UsageError("doctor examines a broker over TCP, not over a Unix socket", hint="Give its port: -p")
        self.host, self.port = settings.broker.addresses()[0]
        self.addresses: list[str] = []
        """Addresses of the host, after the step dns."""
        self.context = make_context(settings.broker.tls) if settings.broker.tls else None
        self.broken = ""
        """The step that failed; later steps that need it are not checked."""
        self.connack_properties: dict[int, int] = {}
        """Number properties of the CONNACK, after the step capabilities."""
        self.main: MqttClient | None = None
        """The connection of the step connack."""
        self._stack = stack

    def obstacle(self) -> str:
        """Return the step that failed, or an empty string."""
        return self.broken

    def no_websocket(self) -> str:
        """Return that the settings do not use WebSockets, or an empty string."""
        return "" if self.only.transport == "websockets" else "the settings do not use WebSockets"

    def no_retained(self) -> str:
        """Return that the broker keeps no retained messages, or an empty string."""
        return "" if self.connack_properties.get(RETAIN_AVAILABLE, 1) else "the broker says that it keeps none"

    @property
    def only(self) -> BrokerSettings:
        """The broker's settings for this one address."""
        return replace(self.settings.broker, host=self.host, port=self.port, hosts=())

    def client(self, on_message: Callable[[Message], None] | None = None) -> MqttClient:
        """Return a client that is closed when the visit ends."""
        settings = replace(self.settings, broker=self.only, client=replace(self.settings.client, client_id=None))
        return self._stack.enter_context(MqttClient(settings, on_message=on_message, retry=False))

    def main_client(self) -> MqttClient:
        """Return the main connection; raise `LifecycleError` if there is none."""
        if self.main is None or not self.main.connected:
            raise LifecycleError("the connection is gone")
        return self.main

    def login(self, *, version: str = "5") -> Login:
        """Return the login for the probe."""
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
        """Return whether the port completes a TLS handshake, with any certificate."""
        try:
            _wrapped(unverified_tls(), self.host, self.port).close()
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
