"""The HTTP transport and a hub that misbehaves."""

from __future__ import annotations

import base64
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from waitress import wasyncore

from mqttkit.controller.transports.http import HttpTransport
from mqttkit.controller.transports.http_hub import HttpHub
from mqttkit.controller.transports.types import Delivery
from tests.support.controllers import eventually


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """Ends what a test started."""
    with ExitStack() as opened:
        yield opened


def answer_with(body: bytes) -> bytes:
    """Return a good answer."""
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s" % (len(body), body)


def test_a_hub_that_answers_nonsense_does_not_end_the_polling(stack: ExitStack) -> None:
    """Nor does it count as a hub for a moment; the first good answer does."""
    listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
    listener.settimeout(20)
    received: list[Delivery] = []
    woken: list[bool] = []
    client = HttpTransport(f"http://127.0.0.1:{listener.getsockname()[1]}", poll_seconds=0.01)
    stack.callback(client.close)
    client.start(received.extend, lambda: woken.append(client.available))
    data = base64.b64encode(b"x").decode()
    odd: list[Any] = [
        [], {"messages": [{"topic": 5, "data": data}], "cursor": "c"},
        {"messages": [{"topic": "\ud800", "data": data}], "cursor": "c"}, {"messages": {"a": 1}, "cursor": "c"},
    ]  # fmt: skip
    bodies = [json.dumps(one).encode() for one in odd] + [b"[" * 100_000, b"\xff"]
    good = json.dumps({"messages": [{"topic": "a", "data": data}], "cursor": "c"}).encode()
    for body in (*bodies, good):
        assert woken == []
        connection, _ = listener.accept()
        with connection:
            connection.recv(10_000)
            connection.sendall(answer_with(body))
    eventually(lambda: [(one.topic, one.data) for one in received] == [("a", b"x")])
    assert woken[0] is True
    listener.close()  # ends the poll that is under way; the hub would leave it without an answer


def test_what_is_not_posted_at_the_end_fails_at_once(stack: ExitStack) -> None:
    """A queue full of messages for a hub that is gone does not hold the end up."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
    client = HttpTransport(f"http://127.0.0.1:{address[1]}", poll_seconds=0.01)
    client.start(lambda _: None, lambda: None)
    tickets = [client.send("a", b"x", qos=1, retain=False) for _ in range(500)]
    client.close()
    assert all(ticket.done and not ticket.ok for ticket in tickets)
    assert client.send("a", b"x", qos=1, retain=False).done


def test_a_hub_that_dies_is_not_available_any_more(
    stack: ExitStack, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Said in the log, and the sender is told to look for another way."""
    hub, woken = HttpHub(), list[bool]()
    loop, broken = wasyncore.loop, threading.Event()

    def once(**options: Any) -> None:
        if broken.is_set():
            raise ValueError("filedescriptor out of range in select()")
        loop(**{**options, "timeout": 0.01})

    monkeypatch.setattr(wasyncore, "loop", once)
    stack.callback(hub.close)
    hub.start(lambda _: None, lambda: woken.append(hub.available))
    broken.set()
    eventually(lambda: woken == [True, False])
    assert "the HTTP server on" in caplog.text
    assert not hub.send("a", b"x", qos=1, retain=False).ok
    assert hub._thread is not None
    hub._thread.join(20)
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", int(hub.url.rpartition(":")[2])), 5)
