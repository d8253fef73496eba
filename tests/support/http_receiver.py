"""A receiver of metrics over HTTP, which can refuse, fail and hang as told."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Receiver:
    """What came, and what to answer."""

    port: int
    requests: list[tuple[dict[str, str], list[dict[str, Any]]]] = field(default_factory=list)
    answers: list[int] = field(default_factory=list)
    """Statuses to answer next, from the end; 200 when there is none."""
    poison: float | None = None
    """A value for which the answer is 422."""

    @property
    def url(self) -> str:
        """Address to POST to."""
        return f"http://127.0.0.1:{self.port}/ingest?source=bridge"


@contextlib.contextmanager
def http_receiver() -> Iterator[Receiver]:
    """Run a receiver."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            status = receiver.answers.pop() if receiver.answers else 200
            if status == 200 and any(metric["value"] == receiver.poison for metric in body):
                status = 422
            if status == 200:
                receiver.requests.append((dict(self.headers), body))
            self.send_response(status)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    receiver = Receiver(server.server_address[1])
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield receiver
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
