"""Write line protocol to InfluxDB 1.x (`/write`) or 2.x (`/api/v2/write`).

InfluxDB replaces a point that has the same measurement, tags and time, so a repeated request changes nothing. To keep
two metrics of one millisecond apart, the last six digits of the nanoseconds come from the dedupe_id.
"""

from __future__ import annotations

import dataclasses
import json
import secrets
import zlib
from collections.abc import Sequence
from urllib.parse import parse_qsl, urlencode, urlsplit

from mqttkit.bridge.metric import Metric
from mqttkit.bridge.sinks.ledger import PendingPost
from mqttkit.bridge.sinks.remote.http_connection import SHOWN, HttpClient
from mqttkit.bridge.sinks.remote.line_protocol import STORED, check_length, quoted, series_of
from mqttkit.bridge.sinks.types import SinkOptions
from mqttkit.errors import SinkUnavailable, UsageError

_NANOSECONDS = 1_000_000
"""In a millisecond."""
_TEXT = {"Content-Type": "text/plain; charset=utf-8"}
_EXAMPLE = "Examples: influx://localhost:8086/DATABASE and influx://localhost:8086/?org=ORG&bucket=BUCKET"
MAX_QUERY_ANSWER = 256 * 1024 * 1024
"""Bytes of the answer to a query of `bridge verify`."""


class InfluxDestination:
    """One connection, kept alive, and one write per batch."""

    def __init__(self, address: str, options: SinkOptions) -> None:
        """Raise UsageError if the address names neither a database nor a bucket."""
        parts = urlsplit(address)
        target, self._database = _target(parts.path, dict(parse_qsl(parts.query)))
        scheme = "https" if parts.scheme == "influxs" else "http"
        http = dataclasses.replace(options.http, authorization="Token")
        self._client = HttpClient(f"{scheme}://{parts.netloc}{target}", http, options.timeout, stored=STORED)
        self.name = self._client.name = f"{parts.scheme}://{parts.netloc}/{self._database}"
        self.target = parts.query
        self._lines: dict[int, tuple[Metric, str]] = {}
        self._count = secrets.randbelow(_NANOSECONDS)

    def encode(self, metrics: Sequence[Metric]) -> bytes:
        """Return the lines. A metric of a refused batch, which arrives again in a smaller one, keeps its line."""
        lines: dict[int, tuple[Metric, str]] = {}
        taken: set[tuple[str, int]] = set()
        for metric in metrics:
            kept = self._lines.get(id(metric))
            lines[id(metric)] = kept if kept is not None else (metric, self._line(metric, taken))
        if not lines.keys() <= self._lines.keys():
            self._lines = lines
        return "\n".join(line for _, line in lines.values()).encode()

    def check_reachable(self) -> None:
        """Open a TCP connection and close it."""
        self._client.check_reachable()

    def send(self, post: PendingPost, *, repeated: bool) -> None:
        """Write the points; a repeated write replaces them with themselves."""
        self._client.store(post.body, _TEXT)

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def query(self, statement: str) -> list[list[object]]:
        """Return the rows of an InfluxQL statement (InfluxDB 1.x); raise SinkUnavailable."""
        body = urlencode({"db": self._database, "q": statement}).encode()
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        answer = self._client.request("POST", "/query", body, headers, longest=MAX_QUERY_ANSWER)
        if answer.status != 200:
            raise SinkUnavailable(f"{self.name} answered {answer.status} to a query: {answer.text[:SHOWN].strip()}")
        try:
            (result,) = json.loads(answer.text)["results"]
            if "error" in result:
                raise SinkUnavailable(f"{self.name}: {result['error']}")
            return [row for series in result.get("series", ()) for row in series["values"]]
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise SinkUnavailable(f"{self.name} did not answer a query with results: {answer.text[:SHOWN]}") from error

    def _line(self, metric: Metric, taken: set[tuple[str, int]]) -> str:
        series = series_of(metric)
        fields = f"value={metric.value!r}"
        if metric.dedupe_id is None:
            self._count += 1
            offset = self._count
        else:
            offset = zlib.crc32(metric.dedupe_id.encode())
            fields += f",dedupe_id={quoted(metric.dedupe_id)}"
        start = metric.timestamp_ms * _NANOSECONDS
        while (point := (series, start + offset % _NANOSECONDS)) in taken:
            offset += 1
        taken.add(point)
        return check_length(f"{series} {fields} {point[1]}")


def _target(path: str, query: dict[str, str]) -> tuple[str, str]:
    """Return the path to POST to, and the name of the database or bucket."""
    database = path.strip("/")
    if database and "/" not in database and query.keys() <= {"rp"}:
        return f"/write?{urlencode({'db': database, 'precision': 'ns', **query})}", database
    if not database and query.keys() == {"org", "bucket"}:
        return f"/api/v2/write?{urlencode({**query, 'precision': 'ns'})}", query["bucket"]
    raise UsageError("the influx sink's address names neither a database nor org and bucket", hint=_EXAMPLE)
