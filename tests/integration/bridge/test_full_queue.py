"""A broker that ends the connection while the bridge reads no more, because its sink is busy."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import socket
import sqlite3
import struct
import termios
import threading
from pathlib import Path

import pytest

from tests.support.bridge_threads import bridge_settings, running_bridge
from tests.support.bridges import body, metric_topic, wait_until
from tests.support.scripted_broker import scripted_broker
from tests.system.bridge.test_faults_data import packet

WAITING, UNREAD = 30, 200


def unacknowledged(connection: socket.socket) -> int:
    """Return how many bytes the other end's kernel does not have yet. A reset would drop them."""
    return int(struct.unpack("i", fcntl.ioctl(connection, termios.TIOCOUTQ, bytes(4)))[0])


def test_connection_that_ends_while_the_queue_is_full_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """mosquitto 2.0.11 exceeds Receive Maximum, so a broker that stops leaves unread messages; it sends them again."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    packets = [packet(metric_topic().encode(), body(number), number + 1) for number in range(WAITING + UNREAD)]
    subscribed, locked, held, again = (threading.Event() for _ in range(4))

    def answer(connection: socket.socket, _connect: bytes) -> bool:
        returned = len(broker.connects) > 1
        connection.settimeout(60)
        connection.sendall(b"\x20\x03" + bytes([returned]) + b"\x00\x00")
        if returned:
            again.set()
            return True
        subscribe = connection.recv(4_096)
        connection.sendall(b"\x90\x04" + subscribe[2:4] + b"\x00\x01")
        subscribed.set()
        assert locked.wait(60)
        connection.sendall(b"".join(packets[:WAITING]))
        assert held.wait(60)
        connection.sendall(b"".join(packets[WAITING:]))
        wait_until(lambda: not unacknowledged(connection), what="the bridge's kernel to have all of it")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return False

    with scripted_broker(answer) as broker:
        settings = bridge_settings(tmp_path, broker.port, client={"receive_maximum": 10}, queue_size=WAITING + 20)
        with (
            caplog.at_level(logging.INFO, "mqttkit"),
            running_bridge(settings, ready=False) as thread,
            contextlib.closing(sqlite3.connect(tmp_path / "metrics.db", isolation_level=None, timeout=60)) as lock,
        ):
            assert subscribed.wait(60)
            lock.execute("BEGIN EXCLUSIVE")
            locked.set()
            wait_until(lambda: thread.bridge.pipeline.books.received == WAITING)
            wait_until(lambda: thread.bridge.pipeline.intake.paused)
            held.set()
            assert again.wait(60)
            books = thread.bridge.pipeline.books
            lock.execute("ROLLBACK")
            wait_until(lambda: not books.balance().in_flight)
    assert (books.overflows, books.turned_away) == (0, UNREAD)
    assert "no room" not in caplog.text
    assert caplog.text.count("the connection ended while the queue was full") == 1
