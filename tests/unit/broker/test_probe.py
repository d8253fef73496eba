"""A broker is asked for its CONNACK."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from mqttkit.broker import probe
from mqttkit.broker.probe import CLOSED, Login, ask
from mqttkit.errors import BrokerUnreachable

CONNACK = b"\x20\x02\x00\x00"
DISCONNECT = b"\xe0\x00"


@contextmanager
def slow_to_close(release: threading.Event) -> Iterator[tuple[int, threading.Event]]:
    """Serve one connection, whose end after DISCONNECT waits for `release`; give port, and an event of DISCONNECT."""
    left = threading.Event()

    def serve() -> None:
        with listener.accept()[0] as connection:
            connection.recv(1024)
            connection.sendall(CONNACK)
            assert connection.recv(2, socket.MSG_WAITALL) == DISCONNECT
            left.set()
            release.wait(60)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1], left
        release.set()
        thread.join(60)


def test_asking_ends_when_the_broker_has_closed_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """rumqttd may end the next connection in place of one that it has not closed yet."""
    monkeypatch.setattr(probe, "END_SECONDS", 600.0)
    release, answered = threading.Event(), threading.Event()
    with slow_to_close(release) as (port, left):
        asking = threading.Thread(target=lambda: ask(Login(host="127.0.0.1", port=port)).accepted and answered.set())
        asking.start()
        assert left.wait(60)
        assert not answered.wait(0.2)
        release.set()
        assert answered.wait(60)
        asking.join(60)


@pytest.mark.parametrize("reset", [False, True])
def test_a_broker_that_closes_or_resets_before_connack_gives_one_cause(reset: bool) -> None:
    """A full broker closes at once: whether CONNECT was read by then decides between an end and a reset."""

    def serve() -> None:
        with listener.accept()[0] as connection:
            if reset:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            else:
                connection.recv(1024)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(BrokerUnreachable) as caught:
            ask(Login(host="127.0.0.1", port=listener.getsockname()[1]))
        thread.join(60)
    assert (caught.value.step, caught.value.cause) == ("mqtt", CLOSED)
