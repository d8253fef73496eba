"""Closing releases everyone, and no queue is touched by two threads at a time."""

from __future__ import annotations

import collections
import contextlib
import itertools
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import pytest
from paho.mqtt.enums import CallbackAPIVersion

from mqttkit.client import MqttClient
from mqttkit.client.connection import Connection
from mqttkit.client.sending.outbox import Outbox
from mqttkit.client.sending.receipt import Receipt
from mqttkit.errors import BrokerUnreachable, MqttkitError
from mqttkit.messages import Message, Outcome
from mqttkit.publisher import Publisher
from mqttkit.settings import LimitSettings
from tests.support.clients import settings_for, wait_until
from tests.support.scripted_broker import scripted_broker

CONNACK_311 = b"\x20\x02\x00\x00"


def accepting(connection: socket.socket, _connect: bytes) -> bool:
    """Accept, and answer nothing else."""
    connection.sendall(CONNACK_311)
    return True


@contextmanager
def in_thread(work: Callable[[], Any]) -> Iterator[list[Any]]:
    """Run `work` in a thread; the list gets what it returns or raises. The thread must have ended at the exit."""
    results: list[Any] = []

    def run() -> None:
        try:
            results.append(work())
        except MqttkitError as error:
            results.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    yield results
    thread.join(60)
    assert not thread.is_alive()


def waiters(condition: threading.Condition) -> int:
    """Return how many threads wait."""
    return len(vars(condition)["_waiters"])


def test_close_releases_a_publish_that_waits_for_room() -> None:
    """It returns a receipt that says why, long before its ten minutes."""
    with scripted_broker(accepting) as server:
        client = MqttClient(settings_for(server.port, version="311", max_queued_messages=1))
        client.connect(timeout=60)
        client.publish("t", b"x", qos=1)
        with in_thread(lambda: client.publish("t", b"y", qos=1, wait=600)) as results:
            wait_until(lambda: waiters(client._outbox._room))
            client.close(flush=0)
    assert [receipt.outcome for receipt in results] == [Outcome.DROPPED]


def test_close_releases_a_publish_that_waits_for_a_connection() -> None:
    """The port is closed."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    client = MqttClient(settings_for(port, initial_delay=60.0))
    client.start()
    with in_thread(lambda: client.publish("t", b"y", wait=600)) as results:
        wait_until(lambda: waiters(client._condition))
        client.close(flush=0)
    assert [receipt.outcome for receipt in results] == [Outcome.DROPPED]


def test_close_releases_connect_and_a_later_connect_raises() -> None:
    """During and after."""
    with scripted_broker(lambda _connection, _connect: True) as server:
        client = MqttClient(settings_for(server.port, connect_timeout=300.0))
        with in_thread(client.connect) as results:
            wait_until(lambda: server.connects)
            client.close()
        assert [type(each) for each in results] == [BrokerUnreachable]
        with pytest.raises(BrokerUnreachable, match="the client was closed"):
            client.connect()


def test_close_releases_a_reader() -> None:
    """`messages()` without a time limit ends."""
    with scripted_broker(accepting) as server:
        client = MqttClient(settings_for(server.port, version="311"))
        client.connect(timeout=60)
        with in_thread(lambda: list(client.messages())) as results:
            client.close()
    assert results == [[]]


def test_connect_does_not_hang_if_the_thread_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says that the network thread failed."""

    def fail(*_arguments: object) -> None:
        raise RuntimeError("broken")

    client = MqttClient(settings_for(1))
    monkeypatch.setattr(client._policy, "decide", fail)
    with pytest.raises(BrokerUnreachable, match="the network thread failed"):
        client.connect()


@pytest.mark.parametrize("websocket", [True, False])
def test_close_during_a_slow_handshake_leaves_no_connection(websocket: bool) -> None:
    """The server sees the end immediately, and no CONNECT afterwards."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        options: dict[str, Any] = {"transport": "websockets"} if websocket else {}
        client = MqttClient(settings_for(port, connect_timeout=300.0, **options))
        client.start()
        connection = listener.accept()[0]
        with connection:
            connection.settimeout(60)
            first = connection.recv(4096)
            began = time.monotonic()
            client.close()
            assert connection.recv(4096) in (b"", b"\xe0\x00")
            assert time.monotonic() - began < 60
    assert first.startswith(b"GET" if websocket else b"\x10")


class Watched(Receipt):
    """A receipt that checks itself when its outcome becomes visible."""

    __slots__ = ("_outcome",)

    @property
    def outcome(self) -> Outcome | None:
        """The outcome."""
        return self._outcome

    @outcome.setter
    def outcome(self, value: Outcome | None) -> None:
        assert value is None or self.reason == "gone"
        self._outcome = value


def test_the_reason_is_visible_when_the_outcome_is() -> None:
    """Another thread may look between the two."""
    outbox = Outbox(LimitSettings())
    receipt = Watched(outbox.condition, qos=1)
    outbox._queue.append(receipt)
    outbox.lose("gone", keep_acknowledged=False)
    assert receipt.outcome is Outcome.LOST
    outbox._drop(Watched(outbox.condition), "gone")


class Interrupted(collections.deque[Receipt]):
    """A queue on whose first look another thread loses everything, or waits until the look is over."""

    def __init__(self, outbox: Outbox) -> None:
        super().__init__()
        self._lose = threading.Thread(target=lambda: outbox.lose("gone", keep_acknowledged=False))

    def __getitem__(self, index: Any) -> Any:
        item = super().__getitem__(index)
        if self._lose.ident is None:
            self._lose.start()
            self._lose.join(0.2)
        return item

    def wait(self) -> None:
        """Wait for the other thread."""
        self._lose.join(60)


def test_losing_publishes_waits_for_the_thread_that_sends() -> None:
    """Both move publishes between the same queues: 8 of 300 closes raised IndexError."""
    outbox = Outbox(LimitSettings())
    outbox.resume()
    queue = outbox._queue = Interrupted(outbox)
    receipts = [outbox.put(b"\0\1t", b"x", 1, retain=False, properties=b"") for _ in range(3)]
    assert outbox.take(v5=False) is not None
    queue.wait()
    assert [receipt.outcome for receipt in receipts] == [Outcome.LOST] * 3
    assert outbox.unresolved == 0


@pytest.mark.parametrize(("kept", "qos", "outcome"), [(True, 1, None), (True, 0, "later"), (False, 1, Outcome.DROPPED)])
def test_a_publish_that_waits_for_room_survives_a_kept_session(kept: bool, qos: int, outcome: object) -> None:
    """The connection drops while it waits: QoS 1 is queued once there is room, QoS 0 needs a connection."""
    outbox = Outbox(LimitSettings(max_queued_messages=2), keeps_session=kept)
    outbox.resume()
    held = [outbox.put(b"\0\1t", b"x", 1, retain=False, properties=b"") for _ in range(2)]
    work = lambda: outbox.put(b"\0\1t", b"y", qos, retain=False, properties=b"", wait=600)  # noqa: E731
    with in_thread(work) as results:
        wait_until(lambda: waiters(outbox._room))
        outbox.suspend()
        outbox.lose("gone", keep_acknowledged=kept)
        if kept:
            outbox.resume()
            outbox.take(v5=False)
            outbox.suspend()
            outbox.acknowledge([(mid, 0) for mid in list(outbox.flights)])
    assert len(held) == 2
    (receipt,) = results
    assert receipt.outcome is (Outcome.DROPPED if outcome == "later" else outcome)


def test_one_unacknowledged_message_does_not_make_the_publisher_grow() -> None:
    """A QoS 0 stream of any length behind it keeps the list within the client's bounds."""
    with (
        scripted_broker(accepting) as server,
        MqttClient(settings_for(server.port, version="311", max_queued_messages=100)) as client,
    ):
        client.connect(timeout=60)
        publisher = Publisher(client)
        publisher.send([Message("t", b"head", 1)])
        publisher.send(Message("t", b"x") for _ in range(20_000))
        client._outbox.flush(0.1)
        publisher.send(Message("t", b"x") for _ in range(2_000))
        assert publisher.unresolved <= 2 * 100 + 2_000
        assert publisher.delivered >= 19_000
        client.close(flush=0)


def test_a_publish_gets_its_acknowledgement_although_the_inbox_is_full() -> None:
    """The PUBACK lies behind messages: reading goes on while somebody awaits it, and stops again after it."""
    flood = b"\x30\x05\0\1txx" * 1_000

    def script(connection: socket.socket, _connect: bytes) -> bool:
        connection.sendall(CONNACK_311 + flood)
        publish = connection.recv(4096)
        connection.sendall(flood + b"\x40\x02" + publish[5:7] + flood)
        return True

    with scripted_broker(script) as server, MqttClient(settings_for(server.port, version="311")) as client:
        assert client._queue is not None
        client._queue.max_messages = 500
        client.connect(timeout=60)
        wait_until(lambda: not client._connection._reads)
        assert client.publish("t", b"x", qos=1).wait(60) is Outcome.ACKNOWLEDGED
        wait_until(lambda: not client._connection._reads)
        received = itertools.islice(client.messages(timeout=60), 3_000)
        assert sum(1 for _ in received) == 3_000


def test_a_subscription_is_answered_although_nobody_reads_yet() -> None:
    """Messages before the SUBACK do not keep it away, and the messages behind it are bounded."""
    flood = b"\x30\x05\0\1txx" * 1_000

    def script(connection: socket.socket, _connect: bytes) -> bool:
        connection.sendall(CONNACK_311)
        subscribe = connection.recv(4096)
        connection.sendall(flood + b"\x90\x03" + subscribe[2:4] + b"\0")
        with contextlib.suppress(OSError):
            while True:
                connection.sendall(flood)
        return True

    with scripted_broker(script) as server, MqttClient(settings_for(server.port, version="311")) as client:
        assert client._queue is not None
        client._queue.max_messages = 500
        client.connect(timeout=60)
        assert client.subscribe("t", timeout=60) == [0]
        wait_until(lambda: not client._connection._reads)
        assert client.stats.received < 200_000


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="this system has no TCP_USER_TIMEOUT")
@pytest.mark.parametrize("keep_alive", [0, 30])
def test_a_black_hole_ends_the_connection_after_the_keep_alive(keep_alive: int) -> None:
    """The kernel gives up on unconfirmed data (RFC 5482); without a keep alive it keeps its own time."""
    with (
        scripted_broker(accepting) as server,
        MqttClient(settings_for(server.port, version="311", keep_alive=keep_alive)) as client,
    ):
        client.connect(timeout=60)
        opened = client._connection._sock
        assert isinstance(opened, socket.socket)
        assert opened.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 1_000 * keep_alive


def test_a_network_thread_that_ends_meanwhile_does_not_break_the_release() -> None:
    """Its last act is to remove itself from the connection, between two looks at it."""

    class Vanishing(Connection):
        """The thread is there at the first look, and gone at the next."""

        looks: ClassVar[list[threading.Thread]] = []

        @property
        def _thread(self) -> threading.Thread | None:
            return self.looks.pop() if self.looks else None

        @_thread.setter
        def _thread(self, thread: threading.Thread | None) -> None:
            """paho sets it."""

    connection = Vanishing(CallbackAPIVersion.VERSION2)
    ended = threading.Thread(target=int)
    ended.start()
    Vanishing.looks.append(ended)
    connection.release()
    assert not ended.is_alive()
