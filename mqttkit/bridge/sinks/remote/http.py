"""POST metrics as JSON arrays. A batch keeps one Idempotency-Key until the server has answered."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from urllib.parse import urlsplit

from mqttkit.bridge.json_record import encode_json, json_record
from mqttkit.bridge.metric import Metric
from mqttkit.bridge.sinks.ledger import PendingPost
from mqttkit.bridge.sinks.remote.http_connection import HttpClient
from mqttkit.bridge.sinks.types import SinkOptions


class HttpDestination:
    """One connection, kept alive, and one POST per batch."""

    def __init__(self, address: str, options: SinkOptions) -> None:
        self._client = HttpClient(address, options.http, options.timeout)
        self.name = self._client.name
        query = urlsplit(address).query  # it may contain a secret
        self.target = hashlib.sha256(query.encode()).hexdigest()[:12] if query else ""

    def encode(self, metrics: Sequence[Metric]) -> bytes:
        """Return a JSON array."""
        return encode_json([json_record(metric) for metric in metrics])

    def check_reachable(self) -> None:
        """Open a TCP connection and close it."""
        self._client.check_reachable()

    def send(self, post: PendingPost, *, repeated: bool) -> None:
        """POST under the batch's key: the server recognises a repeated request by it."""
        self._client.store(post.body, {"Content-Type": "application/json", "Idempotency-Key": post.batch})

    def close(self) -> None:
        """Close the connection."""
        self._client.close()
