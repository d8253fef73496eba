"""The ports of a temporary broker, beside other programs that take ports."""

from __future__ import annotations

import socket

import pytest

from mqttkit.testing import broker as testing
from mqttkit.testing.broker import BrokerOptions, run_broker
from tests.support.brokers import need


def test_tls_port_that_another_program_took_meanwhile_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody asked for this very port."""
    need("mosquitto")
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        monkeypatch.setattr(testing, "free_port", lambda: taken)
        with run_broker(BrokerOptions(tls=True)) as running, running.connect(tls=True) as client:
            assert client.connected
            assert running.tls_port not in (None, taken)
