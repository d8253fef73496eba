"""The HTTP transport and a hub that misbehaves."""

from __future__ import annotations

import base64
import json
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from waitress import wasyncore

from mqttkit.controller.transports.http import HttpTransport
from mqttkit.controller.transports.http_hub import HttpHub
from mqttkit.controller.transports.types import ReceivedMessage
from mqttkit.settings import TlsSettings
from tests.support.controllers import eventually
from tests.support.tls import Authority


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
    received: list[ReceivedMessage] = []
    woken: list[bool] = []
    client = HttpTransport(f"http://127.0.0.1:{listener.getsockname()[1]}", poll_seconds=0.01)
    stack.callback(client.close)
    client.start(
        lambda found: received.extend(found) or ([one.ack() for one in found] and None),
        lambda: woken.append(client.available),
    )
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
    hub._thread.join(60)
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", int(hub.url.rpartition(":")[2])), 5)


@pytest.fixture
def https_hub(tmp_path: Path, stack: ExitStack) -> tuple[str, str]:
    """The URL of a hub behind TLS with a private authority, and the authority's file."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            """Answer like an empty hub."""
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'{"cursor": "c", "messages": []}')

        def log_message(self, *_arguments: object) -> None:
            """Stay quiet."""

    authority = Authority(tmp_path)
    signed = authority.sign("localhost")
    server = HTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(signed.cert, signed.key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    serving.start()
    stack.callback(server.server_close)
    stack.callback(serving.join)
    stack.callback(server.shutdown)
    return f"https://localhost:{server.server_address[1]}", authority.file


def test_a_private_authority_is_trusted_if_it_is_given(stack: ExitStack, https_hub: tuple[str, str]) -> None:
    """`--cafile` counts for HTTP too."""
    url, ca_file = https_hub
    client = HttpTransport(url, poll_seconds=0.05, tls=TlsSettings(ca_file=ca_file))
    stack.callback(client.close)
    client.start(lambda _: None, lambda: None)
    eventually(lambda: client.available)


def test_the_log_says_why_a_hub_cannot_be_reached(
    stack: ExitStack, https_hub: tuple[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    """Once for each cause: an unknown authority, a closed port, a name that does not exist."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    expected = {
        https_hub[0]: "certificate verify failed",
        f"http://127.0.0.1:{port}": "Connection refused",
        "http://no-such-host.invalid:1": "Name or service not known",
    }
    for url, cause in expected.items():
        client = HttpTransport(url, poll_seconds=0.01)
        stack.callback(client.close)
        client.start(lambda _: None, lambda: None)
        eventually(lambda cause=cause: cause in caplog.text)
        assert f"cannot reach the HTTP hub {url}: " in caplog.text
        assert not client.available


def test_a_poll_moves_on_only_after_its_messages_are_handled(stack: ExitStack, monkeypatch: pytest.MonkeyPatch) -> None:
    """A message that the controller did not handle in time is fetched again, marked as redelivered."""
    monkeypatch.setattr("mqttkit.controller.transports.http.HANDLE_SECONDS", 0.1)
    hub, received = HttpHub(), list[ReceivedMessage]()
    stack.callback(hub.close)
    hub.start(lambda _: None, lambda: None)
    client = HttpTransport(hub.url, poll_seconds=0.01)
    stack.callback(client.close)
    client.subscribe("a")

    def take(found: list[ReceivedMessage]) -> None:
        received.extend(found)
        if len(received) > 1:
            for one in found:
                one.ack()

    client.start(take, lambda: None)
    eventually(lambda: client.available)
    hub.send("a", b"x", qos=1, retain=False)
    eventually(lambda: len(received) == 2)
    hub.send("a", b"y", qos=1, retain=False)
    eventually(lambda: len(received) == 3)
    assert [(one.data, one.dup) for one in received] == [(b"x", False), (b"x", True), (b"y", False)]
