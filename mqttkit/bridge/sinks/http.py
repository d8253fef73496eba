"""POST metrics as JSON arrays. A batch keeps one Idempotency-Key until the server has answered.

The ledger stores each request before it is sent. After a crash the sink sends the same request again under the same
key, so a server that honours the key stores the batch once. The ledger also keeps the dedupe keys of stored metrics.
"""

from __future__ import annotations

import hashlib
import logging
import time

from mqttkit.bridge.identity import state_directory
from mqttkit.bridge.json_record import encode_json, json_record
from mqttkit.bridge.sinks.http_connection import HttpPoster
from mqttkit.bridge.sinks.ledger import Ledger, PendingPost, dedupe_key
from mqttkit.bridge.sinks.types import Committed, DeadLetterStore, MetricBatch, SinkOptions
from mqttkit.errors import SinkRefused, SinkUnavailable

logger = logging.getLogger(__name__)

REFUSED = (400, 413, 415, 422)
"""Statuses that blame the content of the batch: the pipeline splits it to find the metric at fault."""
SHOWN = 200
"""Characters of a failed answer that the error quotes."""
LONGEST_WAIT = 3_600.0
"""Most seconds to wait if the server sends Retry-After."""


class HttpSink:
    """One connection, kept alive, and one POST per batch."""

    def __init__(self, address: str, options: SinkOptions) -> None:
        self._poster = HttpPoster(address, options.http, options.timeout)
        self.name = self._poster.name
        self._options = options
        self._ledger: Ledger | None = None
        self._wait_until = 0.0
        self._wait_reason = ""

    @property
    def letters(self) -> DeadLetterStore:
        """The ledger's."""
        return self._ledger_file().letters

    def open(self) -> None:
        """Open the ledger. The sink connects to the server at the first batch."""
        self._ledger_file()

    def open_letters(self) -> None:
        """Open the ledger."""
        self._ledger_file()

    def probe(self) -> None:
        """Check that the ledger is writable and the server reachable; send a request again that a crash interrupted."""
        ledger = self._ledger_file()
        ledger.probe()
        self._poster.check_reachable()
        self._resend(ledger, "")

    def commit(self, batch: MetricBatch) -> Committed:
        """POST the new metrics, then commit the ledger."""
        ledger = self._ledger_file()
        self._check_ledger(ledger)
        self._resend(ledger, batch.id)
        fresh = ledger.new(batch)
        if fresh.metrics:
            body = encode_json([json_record(metric) for metric in fresh.metrics])
            keys = tuple(dedupe_key(metric) for metric in fresh.metrics if metric.dedupe_id is not None)
            post = ledger.pending() or PendingPost(batch.id, body, keys)
            ledger.keep_pending(post)
            try:
                self._post(post)
            except SinkRefused:
                ledger.settle_pending(stored=False)
                raise
        ledger.commit(fresh, batch.letters, batch.settles)
        return Committed(len(fresh.metrics), len(batch.metrics) - len(fresh.metrics))

    def close(self) -> None:
        """Close connection and ledger."""
        self._poster.close()
        if self._ledger is not None:
            self._ledger.close()
            self._ledger = None

    def _resend(self, ledger: Ledger, batch: str) -> None:
        """Send the pending request again, unless it belongs to `batch`."""
        post = ledger.pending()
        if post is None or post.batch == batch:
            return
        try:
            self._post(post)
        except SinkRefused as error:
            logger.warning("the server refused a batch of an earlier run; its metrics arrive again: %s", error)
            ledger.settle_pending(stored=False)
        else:
            ledger.settle_pending(stored=True)

    def _post(self, post: PendingPost) -> None:
        """POST; raise SinkRefused, or SinkUnavailable if the same request must be sent again."""
        if time.monotonic() < self._wait_until:
            raise SinkUnavailable(self._wait_reason)
        answer = self._poster.post(post.body, post.batch)
        if 200 <= answer.status < 300:
            return
        message = f"{self.name} answered {answer.status} {answer.reason}: {answer.text[:SHOWN]}"
        if answer.status in REFUSED:
            raise SinkRefused(message)
        if answer.retry_after > 0:
            wait = min(LONGEST_WAIT, answer.retry_after)
            self._wait_until = time.monotonic() + wait
            message = self._wait_reason = f"{message}; waiting {wait:g} s as the server asks"
        raise SinkUnavailable(message)

    def _check_ledger(self, ledger: Ledger) -> None:
        try:
            ledger.check_file()
        except SinkUnavailable:
            self.close()
            raise

    def _ledger_file(self) -> Ledger:
        if self._ledger is None:
            path = self._options.dead_letters
            if path is None:
                directory = state_directory()
                directory.mkdir(mode=0o700, parents=True, exist_ok=True)
                digest = hashlib.sha256(self.name.encode()).hexdigest()[:12]
                path = str(directory / f"ledger-{digest}.db")
            self._ledger = Ledger(path, self._options)
        return self._ledger
