"""Ports that mqttkit chooses itself are chosen again if another program takes them before the broker listens."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

import pytest

from mqttkit.broker import BrokerSpec
from mqttkit.broker.backends.port_choice import ATTEMPTS, choose_ports, start_on_free_ports
from mqttkit.broker.ports import free_port, is_free
from mqttkit.errors import LifecycleError, PortTaken


@pytest.fixture
def listening() -> Iterator[contextlib.ExitStack]:
    """Sockets that stay open until the test ends."""
    with contextlib.ExitStack() as stack:
        yield stack


def occupy(listening: contextlib.ExitStack, port: int) -> None:
    listening.enter_context(socket.create_server(("127.0.0.1", port)))


def test_only_ports_left_to_mqttkit_are_chosen():
    """Port 0 and the ports marked as automatic; others stay as they are."""
    fixed = free_port()
    spec = choose_ports(BrokerSpec(port=0, tls_port=fixed, automatic_ports=("websocket_port",)))
    assert spec.automatic_ports == ("port", "websocket_port")
    assert spec.tls_port == fixed
    assert len({spec.port, spec.websocket_port, spec.tls_port}) == 3
    assert choose_ports(spec) == spec
    assert choose_ports(BrokerSpec(port=fixed)).websocket_port is None


def test_an_automatic_port_is_never_the_port_of_another_listener():
    """Docker's WebSocket port 9001 gives way to an MQTT port of 9001 that the user asked for."""
    port = free_port()
    spec = choose_ports(BrokerSpec(port=port, websocket_port=port, automatic_ports=("websocket_port",)))
    assert spec.port == port
    assert spec.websocket_port not in (port, None)


def test_a_taken_automatic_port_is_replaced_and_a_requested_one_is_an_error(listening: contextlib.ExitStack):
    """The user's own port is never exchanged in silence."""
    port = free_port()
    occupy(listening, port)
    assert choose_ports(BrokerSpec(port=port, automatic_ports=("port",))).port != port
    with pytest.raises(PortTaken, match=str(port)):
        choose_ports(BrokerSpec(port=port))


@pytest.mark.parametrize("error", [PortTaken("port is already allocated"), LifecycleError("the broker ended")])
def test_a_port_that_is_taken_between_choice_and_start_is_chosen_again(
    listening: contextlib.ExitStack, error: LifecycleError
):
    """Whatever the backend reports, the port's state decides."""
    tried: list[int] = []

    def start(spec: BrokerSpec) -> BrokerSpec:
        tried.append(spec.port)
        if len(tried) < ATTEMPTS:
            occupy(listening, spec.port)
            raise error
        return spec

    assert start_on_free_ports(BrokerSpec(port=0), start).port == tried[-1]
    assert len(set(tried)) == ATTEMPTS


def test_a_port_that_the_engine_still_holds_is_chosen_again_though_it_looks_free():
    """Docker may keep a port allocated after its container is gone."""
    tried: list[int] = []

    def start(spec: BrokerSpec) -> None:
        tried.append(spec.port)
        if len(tried) == 1:
            raise PortTaken("port is already allocated")

    start_on_free_ports(BrokerSpec(port=0), start)
    assert len(set(tried)) == 2


def test_other_failures_and_the_last_attempt_are_reported(listening: contextlib.ExitStack):
    """A broker that fails for another reason is not started five times; one that never gets a port ends."""
    calls: list[int] = []

    def fail(spec: BrokerSpec) -> None:
        calls.append(spec.port)
        raise LifecycleError("broken")

    def lose(spec: BrokerSpec) -> None:
        calls.append(spec.port)
        occupy(listening, spec.port)
        raise LifecycleError("no port")

    with pytest.raises(LifecycleError, match="broken"):
        start_on_free_ports(BrokerSpec(port=0), fail)
    assert len(calls) == 1
    with pytest.raises(LifecycleError, match="no port"):
        start_on_free_ports(BrokerSpec(port=0), lose)
    assert len(calls) == 1 + ATTEMPTS


def test_a_free_port_avoids_what_it_is_told():
    """The kernel may return the same port again."""
    first = free_port()
    assert free_port(avoid={first}) != first
    assert is_free("127.0.0.1", first)
