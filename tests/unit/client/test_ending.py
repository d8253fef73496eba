"""How a connection ends: what was received before is delivered, what was half sent waits."""

from __future__ import annotations

import pytest

from mqttkit.client.transport.websocket import BatchedWebSocket
from tests.unit.client.harness import BatchedSide

MESSAGE = b"\x32\x06\x00\x01t\x00\x01x"


@pytest.mark.parametrize("qos", [0, 1])
def test_a_send_that_fails_does_not_take_what_waits_to_be_read(qos: int) -> None:
    """The broker is gone, and its last messages lie in the socket: a QoS 1 broker may have no copy of them."""
    side = BatchedSide(v5=False)
    side.far.sendall(MESSAGE * 3)
    side.far.close()
    receipt = side.publish(qos)
    assert side.ended == []
    assert not side.client.want_write()
    side.pump()
    assert len(side.messages) == 3
    assert len(side.ended) == 1
    assert not receipt.done
    side.close()


def test_a_packet_of_paho_that_cannot_be_sent_does_not_either() -> None:
    """SUBSCRIBE goes through paho's own queue."""
    side = BatchedSide(v5=False)
    side.far.sendall(MESSAGE * 3)
    side.far.close()
    side.client.subscribe("t")
    side.pump()
    assert len(side.messages) == 3
    assert len(side.ended) == 1
    side.close()


def test_the_next_connection_sends_again() -> None:
    """Being mute ends with the connection."""
    side = BatchedSide(v5=False)
    side.far.close()
    side.publish(1)
    side.pump()
    assert len(side.ended) == 1
    side.reconnect()
    assert side.sent().endswith(b"payload")
    side.close()


class Opened(BatchedWebSocket):
    """A WebSocket whose handshake is over."""

    def _do_handshake(self, extra_headers: object) -> None:
        """Is over."""


def test_the_rest_of_a_frame_that_cannot_be_sent_ends_the_connection() -> None:
    """Not the network thread."""
    side = BatchedSide(v5=False)
    wrapped = Opened(socket=side.near, host="x", port=1, is_ssl=False, path="/", extra_headers=None, deadline=0.0)
    side.client._sock = wrapped
    side.near.setblocking(False)
    while not wrapped.unsent:
        wrapped.send(bytes(100_000))
    side.far.close()
    side.client.loop_write()
    assert len(side.ended) == 1
    side.close()
