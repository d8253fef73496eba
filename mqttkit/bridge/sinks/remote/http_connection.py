"""HTTP over urllib3: credentials from files, one deadline for the whole request, a bounded answer."""

from __future__ import annotations

import base64
import contextlib
import gzip
import socket
import ssl
import threading
import time
from collections.abc import Container, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.util import Retry, connection, parse_url

from mqttkit.bridge.sinks.types import HttpOptions
from mqttkit.errors import SinkRefused, SinkUnavailable, UsageError

MAX_ANSWER = 65_536
"""Bytes of an answer that are read; the connection is closed after a longer one."""
REFUSED = (400, 413, 415, 422)
"""Statuses that blame the content of the batch: the pipeline splits it to find the metric at fault."""
SHOWN = 200
"""Characters of a failed answer that the error quotes."""
LONGEST_WAIT = 3_600.0
"""Maximum seconds to wait if the server sends Retry-After."""


class HttpAnswer(NamedTuple):
    """What the server answered."""

    status: int
    reason: str
    text: str
    retry_after: float
    """Seconds to wait before the next request, as the server asks; 0 if it does not."""


class HttpClient:
    """Keeps one connection alive. Use it from one thread at a time."""

    def __init__(
        self,
        address: str,
        options: HttpOptions,
        timeout: float,
        *,
        repeatable: bool = True,
        stored: Container[int] = range(200, 300),
    ) -> None:
        """`address` is http:// or https://, `timeout` in seconds bounds each request. Raise UsageError.

        If `repeatable` is True, a request may be sent twice: again if the server had closed the idle connection.
        `stored` are the statuses that mean that the server has stored a batch.
        """
        url = parse_url(address)
        if not url.host:
            raise UsageError(f"no host in sink {url.scheme}://…")
        if url.auth is not None:
            hint = "Use --http-username or --token-file"
            raise UsageError("credentials do not belong in the sink's address", hint=hint)
        self.name = f"{url.scheme}://{url.netloc}{url.path or ''}"
        """Address without query; the sink may change it."""
        self._url = url
        self._options = options
        self._timeout = timeout
        self._repeatable = repeatable
        self._stored = stored
        self._socket: Any = None
        self._connected = False
        self._stamps: tuple[object, ...] = ()
        self._headers: dict[str, str] = {}
        self._pool: urllib3.HTTPConnectionPool | None = None
        self._wait_until = 0.0
        self._wait_reason = ""
        self._load()

    def check_reachable(self) -> None:
        """Open a TCP connection to the server and close it; raise SinkUnavailable."""
        host, port = (self._url.host or "").strip("[]"), self._url.port or (443 if self._url.scheme == "https" else 80)
        try:
            connection.create_connection((host, port), timeout=self._timeout).close()
        except OSError as error:
            raise SinkUnavailable(f"{self.name}: {error}") from error

    def store(self, body: bytes, headers: dict[str, str]) -> None:
        """POST to the address; raise SinkRefused, or SinkUnavailable if the same request must be sent again."""
        if time.monotonic() < self._wait_until:
            raise SinkUnavailable(self._wait_reason)
        answer = self.request("POST", self._url.request_uri, body, headers)
        if answer.status in self._stored:
            return
        message = f"{self.name} answered {answer.status} {answer.reason}: {answer.text[:SHOWN].strip()}"
        if answer.status in REFUSED:
            raise SinkRefused(message)
        if answer.retry_after > 0:
            wait = min(LONGEST_WAIT, answer.retry_after)
            self._wait_until = time.monotonic() + wait
            message = self._wait_reason = f"{message}; waiting {wait:g} s as the server asks"
        raise SinkUnavailable(message)

    def request(
        self, method: str, target: str, body: bytes, headers: dict[str, str], *, longest: int = MAX_ANSWER
    ) -> HttpAnswer:
        """Send one request and return the answer, cut after `longest` bytes; raise SinkUnavailable."""
        try:
            pool = self._load()
        except UsageError as error:
            raise SinkUnavailable(error.message, hint=error.hint) from error
        headers = {**self._headers, **headers}
        if self._options.gzip and body:
            body = gzip.compress(body, 1, mtime=0)
            headers["Content-Encoding"] = "gzip"
        with self._deadline() as expired:
            try:
                return self._read(self._send(pool, (method, target, body, headers), expired), longest)
            except (urllib3.exceptions.HTTPError, OSError) as error:
                self.close()
                late = expired.is_set() or isinstance(error, urllib3.exceptions.ReadTimeoutError)
                why = f"no complete answer within {self._timeout:g} s" if late else str(error)
                raise SinkUnavailable(f"{self.name}: {why or type(error).__name__}") from error

    def close(self) -> None:
        """Close the connection."""
        if self._pool is not None:
            self._pool.close()
            self._pool = None
        self._socket = None

    def _send(
        self,
        pool: urllib3.HTTPConnectionPool,
        request: tuple[str, str, bytes, dict[str, str]],
        expired: threading.Event,
    ) -> urllib3.BaseHTTPResponse:
        """Send the request. If the server had closed the idle connection, send it again on a new one."""
        while True:
            self._connected = False
            try:
                return pool.urlopen(
                    *request,
                    retries=False,
                    redirect=False,
                    preload_content=False,
                    decode_content=False,  # the sink asks for no compression, and unpacking has no bound
                    timeout=self._timeout,
                )
            except urllib3.exceptions.ProtocolError:
                if self._connected or not self._repeatable or expired.is_set():
                    raise

    def _read(self, response: urllib3.BaseHTTPResponse, longest: int) -> HttpAnswer:
        text = response.read(longest)
        if response.read(1):
            response.close()
        response.release_conn()
        return HttpAnswer(
            response.status, response.reason or "", text.decode("utf-8", "replace"), _retry_after(response)
        )

    def _load(self) -> urllib3.HTTPConnectionPool:
        """Return the pool; read the credentials again if a file has changed."""
        stamps = tuple(_stamp(path) for path in self._options.files())
        if stamps != self._stamps:
            self._headers = _headers(self._options)
            self.close()
            self._stamps = stamps
        if self._pool is None:
            self._pool = self._make_pool()
        return self._pool

    def _make_pool(self) -> urllib3.HTTPConnectionPool:
        poster, url = self, self._url

        class PlainConnection(HTTPConnection):
            def connect(self) -> None:
                super().connect()
                poster._socket, poster._connected = self.sock, True

        class TlsConnection(HTTPSConnection):
            def connect(self) -> None:
                super().connect()
                poster._socket, poster._connected = self.sock, True

        if url.scheme != "https":
            pool = urllib3.HTTPConnectionPool(url.host or "", url.port, maxsize=1)
            pool.ConnectionCls = PlainConnection
            return pool
        tls = urllib3.HTTPSConnectionPool(url.host or "", url.port, maxsize=1, ssl_context=_tls(self._options))
        tls.ConnectionCls = TlsConnection
        return tls

    @contextlib.contextmanager
    def _deadline(self) -> Iterator[threading.Event]:
        """Cut the connection from another thread when the time is up: a server that drips bytes resets timeouts."""
        expired = threading.Event()

        def cut() -> None:
            expired.set()
            with contextlib.suppress(OSError, AttributeError):  # not connected yet, or closed already
                self._socket.shutdown(socket.SHUT_RDWR)

        timer = threading.Timer(self._timeout, cut)
        timer.daemon = True
        timer.start()
        try:
            yield expired
        finally:
            timer.cancel()
            timer.join()


def _retry_after(response: urllib3.BaseHTTPResponse) -> float:
    """Return the seconds of Retry-After; 0 without one that can be read, such as the year 99999."""
    try:
        return Retry().get_retry_after(response) or 0.0
    except (urllib3.exceptions.InvalidHeader, ValueError, OverflowError):
        return 0.0


def _headers(options: HttpOptions) -> dict[str, str]:
    headers: dict[str, str] = {}
    for line in _lines(options.headers_file):
        name, separator, value = line.partition(":")
        if not separator or not name.strip():
            raise UsageError(f"{options.headers_file} has a line without a header", hint="Write each as: Name: value")
        headers[name.strip()] = value.strip()
    if options.user is not None:
        password = next(iter(_lines(options.password_file)), "")
        text = base64.b64encode(f"{options.user}:{password}".encode()).decode()
        headers["Authorization"] = f"Basic {text}"
    if options.token_file is not None:
        headers["Authorization"] = f"{options.authorization} {next(iter(_lines(options.token_file)))}"
    return headers


def _lines(path: str | None) -> list[str]:
    if path is None:
        return []
    try:
        found = [line.strip() for line in Path(path).expanduser().read_text("utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read {path}: {error}") from error
    if not found:
        raise UsageError(f"{path} is empty")
    return found


def _tls(options: HttpOptions) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=options.ca_file)
        if options.cert_file is not None:
            context.load_cert_chain(options.cert_file, options.key_file)
    except (OSError, ssl.SSLError) as error:
        raise UsageError(f"cannot use the certificate files of the http sink: {error}") from error
    return context


def _stamp(path: str) -> object:
    try:
        status = Path(path).expanduser().stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
