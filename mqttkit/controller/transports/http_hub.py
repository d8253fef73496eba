"""A small HTTP server that replaces the broker: one controller runs it, others post to it and poll it.

    POST /v1/messages?topic=T&retain=0|1   body: the message; 204 if accepted, 403 if refused
    GET  /v1/messages?filter=F&after=C     {"cursor": C, "messages": [{"topic", "data"}]}; data is base64; 401 without
                                           `Authorization: Bearer TOKEN`, a token that an accepted key has signed
    GET  /v1/health                        200

Signatures protect the messages. The hub listens on loopback by default.
"""

from __future__ import annotations

import base64
import errno
import json
import logging
import os
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import parse_qs

from mqttkit.controller.messages.refusals import MessageRefused
from mqttkit.controller.transports.types import Promise, Receive, ReceivedMessage, Ticket, settled
from mqttkit.errors import LifecycleError, PortTaken, TopicError
from mqttkit.topics import check_topic_filter, check_topic_name, matches

log = logging.getLogger(__name__)

MAX_LOG = 10_000
"""Messages kept for the clients that poll."""
MAX_RETAINED = 10_000
MAX_ANSWER = 500
"""Messages in one answer."""
HANDLE_SECONDS = 10.0
_THREADS = 8
_STATUS = {200: "200 OK", 204: "204 No Content", 400: "400 Bad Request", 401: "401 Unauthorized", 403: "403 Forbidden"}
_STATUS |= {404: "404 Not Found", 405: "405 Method Not Allowed", 413: "413 Content Too Large"}
_STATUS |= {503: "503 Service Unavailable"}
HttpReply = tuple[int, bytes]


class HttpHub:
    """The server side of the HTTP transport; also a transport."""

    name = "http"

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        max_bytes: int = 256 * 1024,
        check: Callable[[str, bytes], None] = lambda _topic, _data: None,
        check_reader: Callable[[str, str], None] = lambda _token, _path: None,
    ) -> None:
        self._check, self._check_reader = check, check_reader
        self._host, self._port = host, port
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._log: deque[tuple[int, str, bytes]] = deque(maxlen=MAX_LOG)
        self._retained: dict[str, bytes] = {}
        self._number = 0
        self._epoch = os.urandom(4).hex()
        self._filters: list[str] = []
        self._receive: Receive | None = None
        self._wake: Callable[[], None] = lambda: None
        self._server: Any = None
        self._thread: threading.Thread | None = None

    @property
    def available(self) -> bool:
        """True while it serves."""
        return self._server is not None

    @property
    def url(self) -> str:
        """The URL at which others reach it."""
        return f"http://{self._host}:{self._port}"

    def start(self, receive: Receive, wake: Callable[[], None]) -> None:
        """Start serving; raise PortTaken or LifecycleError if that fails."""
        from waitress.server import create_server

        self._receive, self._wake = receive, wake
        listener = self._listen()
        self._port = int(listener.getsockname()[1])
        sockets: dict[int, Any] = {}
        self._server = create_server(
            self._answer,
            map=sockets,
            sockets=[listener],
            threads=_THREADS,
            ident="",
            max_request_body_size=self._max_bytes + 1,
        )
        self._thread = threading.Thread(target=self._serve, args=(self._server, sockets), name="http-hub", daemon=True)
        self._thread.start()
        wake()

    def subscribe(self, topic_filter: str, qos: int = 1) -> None:
        """Receive the retained messages of the filter now, and those posted on it from now on."""
        with self._lock:
            self._filters.append(topic_filter)
            found = [(topic, data) for topic, data in self._retained.items() if matches(topic_filter, topic)]
        if found and self._receive is not None:
            self._receive([ReceivedMessage(topic, data, self.name) for topic, data in found])

    def send(self, topic: str, data: bytes, *, qos: int, retain: bool) -> Ticket:
        """Store the message for the clients that poll, if it passes the same check as a posted message."""
        try:
            self._check(topic, data)
        except MessageRefused as error:
            log.warning("the hub does not store a message of its own controller: %s", error)
            return settled(False)
        self._keep(topic, data, retain)
        return settled(self.available)

    def close(self) -> None:
        """End the server and its threads; idempotent."""
        server, self._server = self._server, None
        if server is None or self._thread is None:
            return
        server.pull_trigger()
        self._thread.join(15)

    def _listen(self) -> socket.socket:
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        try:
            return socket.create_server((self._host, self._port), family=family)
        except OSError as error:
            kind = PortTaken if error.errno == errno.EADDRINUSE else LifecycleError
            where = f"{self._host}:{self._port}"
            raise kind(f"cannot serve HTTP on {where}: {error.strerror or error}") from error

    def _serve(self, server: Any, sockets: dict[int, Any]) -> None:
        """Serve until `close`, then close all sockets in this thread, which uses them.

        Uses poll(), because select() fails in a process with more than 1,024 open files.
        """
        from waitress import wasyncore

        try:
            while self._server is server:
                wasyncore.loop(timeout=1, use_poll=True, map=sockets, count=1)
        except Exception:
            log.exception("the HTTP server on %s failed", self.url)
            self._server = None
            self._wake()
        server.task_dispatcher.shutdown()
        wasyncore.close_all(sockets)
        server.close()

    # --- answering ----------------------------------------------------------------------------------------

    def _answer(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Serve one request (WSGI)."""
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        query = parse_qs(environ.get("QUERY_STRING", ""), keep_blank_values=True)
        try:
            code, body = self._route(method, path, query, environ)
        except (TopicError, ValueError) as error:
            code, body = 400, str(error).encode()
        kind = "application/json" if code == 200 else "text/plain"
        start_response(_STATUS[code], [("Content-Type", kind), ("Content-Length", str(len(body)))])
        return [body]

    def _route(self, method: str, path: str, query: dict[str, list[str]], environ: dict[str, Any]) -> HttpReply:
        if path == "/v1/health":
            return 200, b"{}"
        if path != "/v1/messages":
            return 404, b"not found: use /v1/messages or /v1/health"
        if method == "GET":
            try:
                self._check_reader(environ.get("HTTP_AUTHORIZATION", "").removeprefix("Bearer "), path)
            except MessageRefused as error:
                return 401, f"{error.reason.value}: {error}".encode()
            filters = [check_topic_filter(one) for one in query.get("filter", [])]
            return 200, json.dumps(self._since(filters, query.get("after", [""])[0])).encode()
        if method != "POST":
            return 405, b"use GET or POST"
        data = environ["wsgi.input"].read(self._max_bytes + 1)
        if len(data) > self._max_bytes:
            return 413, b"message too large"
        return self._post(check_topic_name(query.get("topic", [""])[0]), data, query.get("retain") == ["1"])

    def _post(self, topic: str, data: bytes, retain: bool) -> HttpReply:
        """Pass a message to the hub's own controller, and answer when it has handled the message.

        A message that `check` refuses is not stored; the controller sees it first, so that it counts the refusal.
        """
        if self._receive is not None and any(matches(one, topic) for one in self._filters):
            promise = Promise()
            self._receive([ReceivedMessage(topic, data, self.name, ack=lambda: promise.settle(True))])
            if not promise.wait(HANDLE_SECONDS):
                return 503, b"not handled in time"
        try:
            self._check(topic, data)
        except MessageRefused as error:
            return 403, f"{error.reason.value}: {error}".encode()
        self._keep(topic, data, retain)
        return 204, b""

    def _keep(self, topic: str, data: bytes, retain: bool) -> None:
        with self._lock:
            self._number += 1
            self._log.append((self._number, topic, data))
            if retain and (topic in self._retained or len(self._retained) < MAX_RETAINED):
                self._retained[topic] = data

    def _since(self, filters: list[str], after: str) -> dict[str, Any]:
        """Return the messages after a cursor; the retained ones without one; all after a restart of the hub."""
        epoch, _, number = after.partition("-")
        with self._lock:
            if after:
                start = int(number) if epoch == self._epoch else 0
                found = [entry for entry in self._log if entry[0] > start and _matches_any(filters, entry[1])][
                    :MAX_ANSWER
                ]
                last = found[-1][0] if len(found) == MAX_ANSWER else self._number
                pairs = [(topic, data) for _, topic, data in found]
            else:
                pairs = [(topic, data) for topic, data in self._retained.items() if _matches_any(filters, topic)]
                last = self._number
        messages = [{"topic": topic, "data": base64.b64encode(data).decode()} for topic, data in pairs]
        return {"cursor": f"{self._epoch}-{last}", "messages": messages}


def _matches_any(filters: list[str], topic: str) -> bool:
    return any(matches(one, topic) for one in filters)
