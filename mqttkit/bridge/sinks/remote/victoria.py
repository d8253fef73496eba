"""Write line protocol to VictoriaMetrics, which answers 204 also to what it does not store.

So the sink checks each metric against the server's retention and limits before it sends, and from time to time reads
a sample of a batch back before the batch counts as stored. VictoriaMetrics keeps a repeated sample twice. Before the
sink repeats a request whose outcome is not known, it reads back what is stored and sends only the rest.
"""

from __future__ import annotations

import json
import re
import secrets
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlencode, urlsplit

from mqttkit.bridge.metric import Metric
from mqttkit.bridge.sinks.ledger import PendingPost
from mqttkit.bridge.sinks.remote.http_connection import SHOWN, HttpClient
from mqttkit.bridge.sinks.remote.line_protocol import STORED, check_length, join_series, series_of
from mqttkit.bridge.sinks.types import SinkOptions
from mqttkit.errors import SinkRefused, SinkUnavailable, UsageError

CHECK_SECONDS = 60.0
"""Seconds between batches of which a sample is read back."""
VISIBLE_SECONDS = 1.2
"""After this time VictoriaMetrics finds a new sample. It buffers new data for a second."""
READ_SERIES = 50
"""Series to read back in one request."""
READ_MS = 600_000
"""Milliseconds to read back in one request."""
MAX_EXPORT = 256 * 1024 * 1024
"""Bytes of an answer with samples."""
FLAG_SECONDS = 600.0
"""Seconds between readings of the server's flags."""
PRECISION = 1e-9
"""Two values are the same if they differ by less, as a share of the largest in the series: VictoriaMetrics keeps 12
digits, with one exponent for a block of values."""
FUTURE_MS = 2 * 86_400_000 - 60_000
"""VictoriaMetrics drops samples more than two days ahead."""
MARGIN_MS = 60_000
"""The sink refuses metrics that would leave the retention within this time."""

_TEXT = {"Content-Type": "text/plain; charset=utf-8"}
_FORM = {"Content-Type": "application/x-www-form-urlencoded"}
_FLAG = re.compile(r'^flag\{name="(\w+)", value="([^"]*)"', re.MULTILINE)
_START = re.compile(r"^process_start_time_seconds ([0-9.e+]+)$", re.MULTILINE)
_PERIOD = re.compile(r"([0-9.]+)([hdwy]?)")
_HOURS = {"h": 1.0, "d": 24.0, "w": 168.0, "y": 8_760.0, "": 744.0}
"""Hours of each unit. A number without a unit is months of 31 days."""


class _Limits(NamedTuple):
    """What the server stores, and since when it runs."""

    start: str
    retention_ms: int
    labels: int
    value_length: int


class _Sample(NamedTuple):
    series: str
    value: float
    timestamp_ms: int


class VictoriaDestination:
    """One connection, kept alive, and one write per batch."""

    def __init__(self, address: str, options: SinkOptions) -> None:
        """Raise UsageError."""
        parts = urlsplit(address)
        query = dict(parse_qsl(parts.query, keep_blank_values=True))
        self._checks = query.pop("check", "yes") != "no"
        if query:
            raise UsageError(f"the victoria sink has no option {next(iter(query))!r}", hint="Example: ?check=no")
        self._path = parts.path.rstrip("/")
        scheme = "https" if parts.scheme == "victorias" else "http"
        write = f"{scheme}://{parts.netloc}{self._path}/write?precision=ms"
        self._client = HttpClient(write, options.http, options.timeout, repeatable=False, stored=STORED)
        self.name = self._client.name = f"{parts.scheme}://{parts.netloc}{self._path}"
        self.target = ""
        self._timeout = options.timeout
        self._limits: _Limits | None = None
        self._limits_at = self._checked_at = -FLAG_SECONDS

    def encode(self, metrics: Sequence[Metric]) -> bytes:
        """Return the lines; raise SinkRefused for a metric that the server would drop."""
        limits = self._read_limits()
        now_ms = time.time_ns() // 1_000_000
        return "\n".join(_line(metric, limits, now_ms) for metric in metrics).encode()

    def check_reachable(self) -> None:
        """Open a TCP connection and close it."""
        self._client.check_reachable()

    def send(self, post: PendingPost, *, repeated: bool) -> None:
        """Write the lines that are not stored yet. Every 60 s wait until a sample of the batch can be read."""
        lines = post.body.decode().split("\n")
        if repeated and self._checks:
            time.sleep(VISIBLE_SECONDS)
            lines = self._missing(lines)
        if not lines:
            return
        self._client.store("\n".join(lines).encode(), _TEXT)
        if self._checks and time.monotonic() - self._checked_at >= CHECK_SECONDS:
            self._check_stored(lines[-1])
            self._checked_at = time.monotonic()

    def start(self) -> str:
        """Return the second in which the server started; nothing without checks."""
        return self._ask().start if self._checks else ""

    def repair(self, body: bytes) -> int:
        """Write the lines that are not stored, and return how many there were."""
        lines = self._missing(body.decode().split("\n"))
        if lines:
            self._client.store("\n".join(lines).encode(), _TEXT)
        return len(lines)

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def export(self, matches: Iterable[str], start_ms: int, end_ms: int) -> Iterator[tuple[dict[str, str], Any, Any]]:
        """Yield labels, values and time stamps of each series that a selector matches; raise SinkUnavailable."""
        fresh = f'mqttkit_read!="{secrets.token_hex(6)}"'  # otherwise the server answers from its cache
        selectors = [("match[]", f"{{{match},{fresh}}}") for match in matches]
        query = [*selectors, ("start", f"{start_ms / 1000:.3f}"), ("end", f"{end_ms / 1000:.3f}")]
        answer = self._request("/api/v1/export", urlencode(query).encode(), MAX_EXPORT)
        for line in answer.splitlines():
            try:
                found = json.loads(line)
                yield found["metric"], found["values"], found["timestamps"]
            except (ValueError, TypeError, KeyError) as error:
                text = f"{self.name}/api/v1/export did not answer with samples: {line[:SHOWN]}"
                raise SinkUnavailable(text) from error

    def delete(self, match: str) -> None:
        """Remove the series that a selector matches; raise SinkUnavailable."""
        self._request("/api/v1/admin/tsdb/delete_series", urlencode({"match[]": f"{{{match}}}"}).encode())

    def _request(self, path: str, body: bytes = b"", longest: int = MAX_EXPORT) -> str:
        method = "POST" if body else "GET"
        answer = self._client.request(method, self._path + path, body, _FORM if body else {}, longest=longest)
        if not 200 <= answer.status < 300:
            hint = "Add ?check=no to the sink's address if this server only takes writes"
            text = f"{self.name}{path} answered {answer.status}: {answer.text[:SHOWN].strip()}"
            raise SinkUnavailable(text, hint=hint)
        return answer.text

    def _read_limits(self) -> _Limits | None:
        """Return the server's limits from its flags; None without checks."""
        if not self._checks:
            return None
        if self._limits is None or time.monotonic() - self._limits_at > FLAG_SECONDS:
            return self._ask()
        return self._limits

    def _ask(self) -> _Limits:
        """Read the server's start and limits."""
        page = self._request("/metrics")
        flags = dict(_FLAG.findall(page))
        try:
            self._limits = _Limits(
                start=_START.findall(page)[0],
                retention_ms=_period_ms(flags["retentionPeriod"]),
                labels=int(flags["maxLabelsPerTimeseries"]),
                value_length=int(flags["maxLabelValueLen"]),
            )
        except (LookupError, ValueError) as error:
            hint = "Add ?check=no to the sink's address to write without checks"
            raise SinkUnavailable(f"{self.name}/metrics does not show the server's flags", hint=hint) from error
        self._limits_at = time.monotonic()
        return self._limits

    def _check_stored(self, line: str) -> None:
        """Wait until a line that was sent can be read; raise SinkUnavailable if it does not appear."""
        deadline = time.monotonic() + max(self._timeout, 3 * VISIBLE_SECONDS)
        while True:
            time.sleep(VISIBLE_SECONDS)
            if not self._missing([line]):
                return
            if time.monotonic() > deadline:
                raise SinkUnavailable(
                    f"{self.name} answered 204, but {_sample(line).series[:100]} of that batch cannot be read back",
                    hint="Look for series limits, relabelling and the retention of the server",
                )

    def _missing(self, lines: Sequence[str]) -> list[str]:
        """Return the lines whose samples are not stored."""
        samples = [_sample(line) for line in lines]
        stored: dict[tuple[str, int], list[float]] = {}
        scale: dict[str, float] = {}
        for series, stamps, numbers in self._stored_near(samples):
            scale[series] = max([scale.get(series, 0.0), *map(abs, numbers)])
            for stamp, number in zip(stamps, numbers, strict=True):
                stored.setdefault((series, stamp), []).append(number)
        pairs = zip(samples, lines, strict=True)
        return [line for sample, line in pairs if not _take(stored, sample, scale.get(sample.series, 0.0))]

    def _stored_near(self, samples: Sequence[_Sample]) -> Iterator[tuple[str, list[int], list[float]]]:
        """Yield series, times and values of what is stored around these samples.

        A batch may hold samples of today and of last month: each period is read alone, without what lies between.
        """
        periods: dict[int, list[_Sample]] = {}
        for sample in samples:
            periods.setdefault(sample.timestamp_ms // READ_MS, []).append(sample)
        for near in periods.values():
            times = [sample.timestamp_ms for sample in near]
            matches = sorted({_selector(sample.series) for sample in near})
            for first in range(0, len(matches), READ_SERIES):
                for labels, values, stamps in self.export(matches[first : first + READ_SERIES], min(times), max(times)):
                    name = labels.pop("__name__")
                    numbers = [float(value or 0) for value in values]
                    yield join_series(name.removesuffix("_value"), labels), stamps, numbers


def _take(stored: dict[tuple[str, int], list[float]], sample: _Sample, scale: float) -> bool:
    """Remove a sample from those stored; return False if it is not among them."""
    found = stored.get((sample.series, sample.timestamp_ms), [])
    for number in found:
        if abs(number - sample.value) <= PRECISION * max(scale, abs(sample.value)):
            found.remove(number)
            return True
    return False


def _line(metric: Metric, limits: _Limits | None, now_ms: int) -> str:
    series = series_of(metric)
    if metric.timestamp_ms > now_ms + FUTURE_MS:
        raise SinkRefused(f"the time stamp {metric.timestamp_ms} is more than two days ahead")
    if limits is not None:
        if metric.timestamp_ms < now_ms - limits.retention_ms + MARGIN_MS:
            days = limits.retention_ms / 86_400_000
            raise SinkRefused(f"the time stamp {metric.timestamp_ms} is older than the retention of {days:g} days")
        if metric.tags is not None:
            _check_tags(json.loads(metric.tags), limits)
    return check_length(f"{series} value={metric.value!r} {metric.timestamp_ms}")


def _check_tags(tags: dict[str, Any], limits: _Limits) -> None:
    if len(tags) + 3 > limits.labels:
        raise SinkRefused(f"{len(tags)} tags, and the server keeps {limits.labels - 3} (-maxLabelsPerTimeseries)")
    longest = max((len(str(value).encode()) for value in tags.values()), default=0)
    if longest > limits.value_length:
        raise SinkRefused(f"a tag of {longest} bytes, and the server keeps {limits.value_length} (-maxLabelValueLen)")


def _period_ms(text: str) -> int:
    found = _PERIOD.fullmatch(text)
    if found is None:
        raise ValueError(text)
    return round(float(found[1]) * _HOURS[found[2]] * 3_600_000)


def _sample(line: str) -> _Sample:
    series, value, stamp = re.split(r"(?<!\\) ", line)
    return _Sample(series, float(value.removeprefix("value=")), int(stamp))


def _selector(series: str) -> str:
    """Return the label matchers of the series' measurement, tenant and agent."""
    parts = re.split(r"(?<!\\),", series)
    tags = dict(part.split("=", 1) for part in parts[1:] if part.startswith(("agent_id=", "tenant_id=")))
    return f'__name__="{parts[0]}_value",agent_id="{tags["agent_id"]}",tenant_id="{tags["tenant_id"]}"'
