"""Metrics as JSON arrays, POSTed; retried under one Idempotency-Key until the server says 2xx.

The ledger keeps dead letters, and the keys of what was taken, so that a redelivered metric is not posted
again. A crash between the server's answer and the ledger's commit posts once more: the server must know
(tenant_id, agent_id, dedupe_id).
"""

from __future__ import annotations

import hashlib
import http.client
import ssl
from urllib.parse import urlsplit

from mqttkit.bridge.identity import state_directory
from mqttkit.bridge.json_record import encode_json, json_record
from mqttkit.bridge.sinks.ledger import Ledger
from mqttkit.bridge.sinks.types import Committed, DeadLetterStore, MetricBatch, SinkOptions
from mqttkit.errors import SinkRefused, SinkUnavailable, UsageError

REFUSED = (400, 409, 413, 415, 422)
"""Statuses that blame the batch: it is halved until what is to blame is found."""
SHOWN = 200
"""Bytes of a refusing answer that the error shows."""


class HttpSink:
    """One connection, kept alive; one POST a batch."""

    def __init__(self, address: str, options: SinkOptions) -> None:
        parts = urlsplit(address)
        if not parts.hostname:
            raise UsageError(f"no host in sink {parts.scheme}://…")
        if parts.username or parts.password:
            raise UsageError("credentials do not belong in the sink's address", hint="Use --token-file")
        self.name = f"{parts.scheme}://{parts.netloc}{parts.path}"
        self._target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self._parts = parts
        self._options = options
        self._connection: http.client.HTTPConnection | None = None
        self._ledger: Ledger | None = None

    @property
    def letters(self) -> DeadLetterStore:
        """The ledger's."""
        return self._ready()

    def open(self) -> None:
        """Open the ledger; the server is met at the first batch."""
        self._book()

    def open_letters(self) -> None:
        """Open the ledger."""
        self._book()

    def probe(self) -> None:
        """Connect to the server, without a request; take the ledger's lock."""
        self._book().probe()
        try:
            connection = self._connected()
            if connection.sock is None:
                connection.connect()
        except (OSError, http.client.HTTPException) as error:
            self._drop()
            raise SinkUnavailable(f"{self.name}: {error}") from error

    def commit(self, batch: MetricBatch) -> Committed:
        """POST what is new, then commit the ledger."""
        ledger = self._book()
        fresh = ledger.new(batch.metrics)
        if fresh:
            self._post(encode_json([json_record(metric) for metric in fresh]), batch.id)
        ledger.commit(fresh, batch.letters, batch.settles)
        return Committed(len(fresh), len(batch.metrics) - len(fresh))

    def close(self) -> None:
        """Close connection and ledger."""
        self._drop()
        if self._ledger is not None:
            self._ledger.close()
            self._ledger = None

    def _post(self, body: bytes, key: str) -> None:
        headers = {"Content-Type": "application/json", "Idempotency-Key": key}
        if self._options.token is not None:
            headers["Authorization"] = f"Bearer {self._options.token}"
        try:
            connection = self._connected()
            connection.request("POST", self._target, body, headers)
            answer = connection.getresponse()
            text = answer.read().decode("utf-8", "replace")
        except (OSError, http.client.HTTPException) as error:
            self._drop()
            raise SinkUnavailable(f"{self.name}: {error or type(error).__name__}") from error
        if 200 <= answer.status < 300:
            return
        message = f"{self.name} answers {answer.status} {answer.reason}: {text[:SHOWN]}"
        if answer.status in REFUSED:
            raise SinkRefused(message)
        raise SinkUnavailable(message)

    def _connected(self) -> http.client.HTTPConnection:
        if self._connection is None:
            host, port, timeout = self._parts.hostname or "", self._parts.port, self._options.timeout
            if self._parts.scheme == "https":
                context = ssl.create_default_context()
                self._connection = http.client.HTTPSConnection(host, port, timeout=timeout, context=context)
            else:
                self._connection = http.client.HTTPConnection(host, port, timeout=timeout)
        return self._connection

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _book(self) -> Ledger:
        if self._ledger is None:
            path = self._options.dead_letters
            if path is None:
                directory = state_directory()
                directory.mkdir(mode=0o700, parents=True, exist_ok=True)
                digest = hashlib.sha256(self.name.encode()).hexdigest()[:12]
                path = str(directory / f"ledger-{digest}.db")
            self._ledger = Ledger(path, self._options)
        return self._ledger

    def _ready(self) -> DeadLetterStore:
        return self._book().letters
