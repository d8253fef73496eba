"""A receiver of metrics over HTTP, which can refuse, fail, hang up and drip as told."""

from __future__ import annotations

import contextlib
import gzip
import json
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Receiver:
    """The requests that arrived, and how to answer the next ones."""

    port: int
    scheme: str = "http"
    requests: list[tuple[dict[str, str], list[dict[str, Any]]]] = field(default_factory=list)
    """Headers and body of the requests that were accepted, each Idempotency-Key once."""
    keys: list[str] = field(default_factory=list)
    """Idempotency-Keys of all requests."""
    texts: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)
    """Path, headers and body of the requests that have no JSON body."""
    answers: list[int] = field(default_factory=list)
    """Statuses to answer next, from the end; when it is empty, 200 to JSON and 204 to other bodies."""
    headers: dict[str, str] = field(default_factory=dict)
    """Headers to add to each answer other than 200."""
    body: bytes = b"{}"
    poison: float | None = None
    """A value for which the answer is 422."""
    lose_answers: int = 0
    """Accept so many requests and close the connection without an answer."""
    hang_up: bool = False
    """Close each connection after its answer, without announcing it."""
    drip: float = 0.0
    """Seconds between the bytes of the answer's body."""
    connections: int = 0
    ended: threading.Event = field(default_factory=threading.Event)
    hung_up: threading.Event = field(default_factory=threading.Event)

    @property
    def url(self) -> str:
        """Address to POST to."""
        return f"{self.scheme}://127.0.0.1:{self.port}/ingest?source=bridge"


@contextlib.contextmanager
def http_receiver(context: ssl.SSLContext | None = None) -> Iterator[Receiver]:
    """Run a receiver; with a context, over TLS."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            super().setup()
            receiver.connections += 1

        def finish(self) -> None:
            super().finish()
            if receiver.hang_up:
                self.connection.close()
                receiver.hung_up.set()

        def do_POST(self) -> None:
            data = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers["Content-Encoding"] == "gzip":
                data = gzip.decompress(data)
            if self.headers["Content-Type"] != "application/json":
                receiver.texts.append((self.path, dict(self.headers), data))
                self.answer(receiver.answers.pop() if receiver.answers else 204)
                return
            body = json.loads(data)
            status = receiver.answers.pop() if receiver.answers else 200
            if status == 200 and any(metric["value"] == receiver.poison for metric in body):
                status = 422
            key = self.headers["Idempotency-Key"]
            if status == 200 and not any(headers["Idempotency-Key"] == key for headers, _ in receiver.requests):
                receiver.requests.append((dict(self.headers), body))
            receiver.keys.append(key)
            if receiver.lose_answers:
                receiver.lose_answers -= 1
                self.close_connection = True
                return
            self.answer(status)
            self.close_connection = self.close_connection or receiver.hang_up

        def answer(self, status: int) -> None:
            self.send_response(status)
            for name, value in (receiver.headers if status != 200 else {}).items():
                self.send_header(name, value)
            body = receiver.body if status != 204 else b""
            if body:
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if not receiver.drip:
                self.wfile.write(body)
            for number in range(len(body) if receiver.drip else 0):
                self.wfile.write(body[number : number + 1])
                if receiver.ended.wait(receiver.drip):
                    return

        def log_message(self, format: str, *args: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: object, client_address: object) -> None:
            """Ignore it: a client that hangs up is part of the tests."""

    server = Server(("127.0.0.1", 0), Handler)
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    receiver = Receiver(server.server_address[1], "http" if context is None else "https")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield receiver
    finally:
        receiver.ended.set()
        server.shutdown()
        server.server_close()
        thread.join()
