"""The HTTP server of the page: its files, the stream of events, and one topic in full."""

from __future__ import annotations

import contextlib
import logging
import socket
import socketserver
import threading
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any
from urllib.parse import parse_qs, urlsplit

from mqttkit.errors import MqttkitError
from mqttkit.web.access import PageAccess
from mqttkit.web.encoding import encode
from mqttkit.web.hub import Hub, TooManyViewers
from mqttkit.web.static_files import static_files

log = logging.getLogger(__name__)

REQUEST_SECONDS = 10.0
"""A connection ends if its client takes longer to send a part of its request, or to read a part of the answer."""
ALIVE_SECONDS = 15.0
"""A stream without events gets a comment this often."""
SEND_BUFFER = 512 * 1024
"""Bytes of a stream that the kernel may hold."""
CONNECTIONS_OF_A_VIEWER = 8
"""A browser opens six connections to load a page, and one for its stream."""
OTHER_CONNECTIONS = 24
"""Connections that are served besides those of the viewers."""
RETRY = {"Retry-After": "5"}
"""Header of each answer that says that the server is busy."""
BUSY = b"HTTP/1.0 503 Service Unavailable\r\nRetry-After: 5\r\nContent-Length: 0\r\n\r\n"
"""The answer to a connection when there is no room for it."""
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}

Detail = Callable[[int, str], dict[str, object] | None]
"""From a topic's number and the form of its payload to what the page shows; None if there is no such topic."""


class PageServer(ThreadingHTTPServer):
    """Serves until the context ends. Entering it starts a thread; each connection has another."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, access: PageAccess, hub: Hub, detail: Detail) -> None:
        """Raise MqttkitError if it cannot listen."""
        self.access = access
        self.hub = hub
        self.detail = detail
        self.files = static_files()
        self.max_connections = hub.max_viewers * CONNECTIONS_OF_A_VIEWER + OTHER_CONNECTIONS
        self._slots = threading.BoundedSemaphore(self.max_connections)
        self.address_family = socket.AF_INET6 if ":" in access.host else socket.AF_INET
        try:
            super().__init__((access.host, access.port), _Handler)
        except OSError as error:
            raise MqttkitError(
                f"cannot listen on {access.host}, port {access.port}: {error.strerror or error}",
                hint="Choose another address: --listen HOST:PORT",
            ) from error
        self._thread = threading.Thread(
            target=self.serve_forever, kwargs={"poll_interval": 0.2}, name="web-server", daemon=True
        )

    def __enter__(self) -> PageServer:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.shutdown()
        self.server_close()
        self._thread.join()

    @property
    def address(self) -> str:
        """The address to open in a browser; it may contain the token."""
        return self.access.address(int(self.server_address[1]))

    def server_bind(self) -> None:
        """Bind; the base class would also ask the DNS for this machine's name."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve a connection in a separate thread; refuse it if there are too many."""
        if not self._slots.acquire(blocking=False):
            log.warning("refused a connection: %d are open", self.max_connections)
            with contextlib.suppress(OSError):  # the client has gone
                request.sendall(BUSY)
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serve a connection."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._slots.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log the error, without the request."""
        log.debug("a connection of the page failed", exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    """Answers one request."""

    server: PageServer
    timeout = REQUEST_SECONDS
    server_version, sys_version = "mqttkit", ""
    default_request_version = "HTTP/1.0"  # a malformed first line gets an answer with headers too

    def do_GET(self) -> None:
        """Answer."""
        url = urlsplit(self.path)
        query = {name: values[-1] for name, values in parse_qs(url.query).items()}
        if not self.server.access.allows_host(self.headers["Host"]):
            self._refuse(
                HTTPStatus.MISDIRECTED_REQUEST, "unknown name in the Host header. Add it with: --host-name NAME"
            )
        elif self.headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin") and url.path != "/":
            self._refuse(HTTPStatus.FORBIDDEN, "requests from other sites are forbidden")
        elif url.path.startswith("/static/"):
            self._send_file(url.path.removeprefix("/static/"))
        elif not self.server.access.allows(query.get("token"), self.headers["Authorization"]):
            self._deny()
        elif url.path == "/":
            self._send_file("index.html")
        elif url.path == "/events":
            self._stream()
        elif url.path == "/topic":
            self._send_topic(query)
        else:
            self._refuse(HTTPStatus.NOT_FOUND, "not found")

    def _send_file(self, name: str) -> None:
        if name not in self.server.files:
            self._refuse(HTTPStatus.NOT_FOUND, "not found")
            return
        kind, content = self.server.files[name]
        self._send(HTTPStatus.OK, kind, content)

    def _send_topic(self, query: dict[str, str]) -> None:
        number = query.get("number", "")
        found = None
        if number.isascii() and number.isdigit():
            found = self.server.detail(int(number[:12]), query.get("shape", "auto"))
        if found is None:
            self._refuse(HTTPStatus.NOT_FOUND, "no such topic")
        else:
            self._send(HTTPStatus.OK, "application/json", encode(found))

    def _stream(self) -> None:
        """Send events until the client goes, reads nothing for REQUEST_SECONDS, or the server ends."""
        try:
            with self.server.hub.viewer() as viewer:
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
                self._send_headers(HTTPStatus.OK, "text/event-stream")
                while not viewer.closed:
                    if viewer.needs_snapshot:
                        for event in self.server.hub.snapshot(viewer):
                            self.wfile.write(event)
                    for event in viewer.take(ALIVE_SECONDS) or [b": alive\n\n"]:
                        self.wfile.write(event)
        except TooManyViewers:
            text = f"the page is open {self.server.hub.max_viewers} times already; close one, or use --max-viewers"
            self._refuse(HTTPStatus.SERVICE_UNAVAILABLE, text, RETRY)
        except OSError:  # the browser has closed the page, or reads nothing
            self.close_connection = True

    def _deny(self) -> None:
        if self.server.access.password is None:
            text = "wrong or missing token: open the address that mqttkit web has printed"
            self._refuse(HTTPStatus.FORBIDDEN, text)
        else:
            challenge = {"WWW-Authenticate": 'Basic realm="mqttkit web", charset="UTF-8"'}
            self._send(HTTPStatus.UNAUTHORIZED, "text/plain", b"a password is needed\n", challenge)

    def _refuse(self, code: HTTPStatus, text: str, headers: dict[str, str] | None = None) -> None:
        self._send(code, "text/plain; charset=utf-8", text.encode() + b"\n", headers)

    def _send(self, code: HTTPStatus, kind: str, body: bytes, headers: dict[str, str] | None = None) -> None:
        self._send_headers(code, kind, {"Content-Length": str(len(body)), **(headers or {})})
        self.wfile.write(body)

    def _send_headers(self, code: HTTPStatus, kind: str, headers: dict[str, str] | None = None) -> None:
        self.send_response(code)
        for name, value in {"Content-Type": kind, **HEADERS, **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answer a malformed request with plain text that repeats nothing of it."""
        self.close_connection = True
        status = HTTPStatus(code)
        self._refuse(status, status.phrase.lower())

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing: the address of a request contains the token."""
