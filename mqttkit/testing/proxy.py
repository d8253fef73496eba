"""A proxy in front of a test's broker that makes faults on purpose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from mqttkit.client.connecting import Client
from mqttkit.proxy.rules import parse_rule
from mqttkit.proxy.server import Proxy
from mqttkit.settings import MqttSettings
from mqttkit.testing.broker import TestBroker


class TestProxy(Proxy):
    """Forwards to a test's broker. `url` and `port` are its own; a context manager. Any thread.

    `totals` counts connections, packets and cuts, `rules` how often each rule was applied. TLS is not supported.
    """

    __test__ = False  # pytest must not collect it

    def __init__(self, broker: TestBroker, rules: Sequence[str] = (), *, seed: int = 0) -> None:
        """Set up; raise UsageError for an invalid rule."""
        super().__init__((broker.host, broker.port), rules=[parse_rule(rule) for rule in rules], seed=seed)
        self._broker = broker

    @property
    def url(self) -> str:
        """Address of the proxy."""
        return f"mqtt://127.0.0.1:{self.port}"

    def settings(self, user: str | None = None) -> MqttSettings:
        """Return the settings of a client that connects through the proxy, as `TestBroker.settings`."""
        settings = self._broker.settings(user)
        return replace(settings, broker=replace(settings.broker, host="127.0.0.1", port=self.port))

    def connect(self, user: str | None = None) -> Client:
        """Return a client that connects through the proxy when its `with` block begins."""
        return Client(self.settings(user))
