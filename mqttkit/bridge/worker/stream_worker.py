"""Move metrics from a Redis stream into a database, as a member of a consumer group."""

from __future__ import annotations

import contextlib
import logging
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from mqttkit.bridge.flow.accounting import Books
from mqttkit.bridge.identity import Identity
from mqttkit.bridge.json_record import encode_json, json_record
from mqttkit.bridge.metric import Metric
from mqttkit.bridge.observe.health import Health, Sample, serve_health
from mqttkit.bridge.observe.prometheus import book_samples
from mqttkit.bridge.observe.resource_watch import resident_bytes
from mqttkit.bridge.observe.service_manager import Notifier
from mqttkit.bridge.sinks import open_sink, sink_options
from mqttkit.bridge.sinks.redis import tagged
from mqttkit.bridge.sinks.redis_connection import connect_redis, redacted, translated
from mqttkit.bridge.sinks.types import Committed, DeadLetter, MetricBatch, Sink
from mqttkit.bridge.worker.entries import StreamEntry, entries_of, following, letter_of, metric_of, order, split
from mqttkit.errors import SinkRefused, SinkUnavailable, UsageError
from mqttkit.settings import BridgeSettings
from mqttkit.stop import Stop

logger = logging.getLogger(__name__)

BLOCK_MS = 500
"""Milliseconds that one read waits for entries."""
TRIM_SECONDS = 5.0
LIVE_SECONDS = 30.0
"""A worker whose loop has not run for so long is stuck."""
RETRY_FIRST, RETRY_LONGEST = 0.1, 5.0
"""Seconds between attempts."""

_WAITING = {
    "pending": "Entries that workers of the group have read and not stored",
    "lag": "Entries that no worker of the group has read",
}


@dataclass(frozen=True, kw_only=True)
class WorkerSettings:
    """Settings of one worker."""

    source: str
    """Address of the Redis server that has the stream."""
    source_password_file: str | None = None
    """File with that server's password in its first line, read for each new connection."""
    bridge: BridgeSettings
    """Sink, stream and batch size."""
    group: str = "mqttkit"
    """Consumer group."""
    claim_after: float = 60.0
    """Seconds after which an entry that another worker has read, but not acknowledged, is taken over."""


class StreamWorker:
    """Run until stopped. The worker acknowledges committed entries, and trims entries that all groups have read.

    If an entry has no dedupe_id, the worker uses the entry's identifier, so that it stores the entry only once.
    """

    def __init__(self, settings: WorkerSettings) -> None:
        bridge = settings.bridge
        if not bridge.sink or not bridge.sink.startswith(("sqlite:", "postgres")):
            raise UsageError("a worker needs a database as its sink", hint="Use --sink sqlite:PATH or postgresql://…")
        self.books = Books()
        self._settings = settings
        self._bridge = bridge
        self._name = f"stream {bridge.stream} at {redacted(settings.source)}"
        self._client: Any = connect_redis(
            settings.source,
            timeout=bridge.sink_timeout + BLOCK_MS / 1000,
            password_file=settings.source_password_file,
        )
        self._sink: Sink = open_sink(bridge.sink, sink_options(bridge))
        self._consumer = ""
        self._stop = Stop()
        self._claimed_at = self._trimmed_at = self._logged_at = time.monotonic()
        self._notifier = Notifier()
        self._progress_at = time.monotonic()
        self._blocked = "not started"
        self._waiting: dict[str, int | None] = {}

    def stop(self) -> None:
        """Stop after the current batch. Only sets a flag."""
        self._stop.set()

    def run(self) -> int:
        """Run until stopped; return 0. Raise SinkBroken."""
        identity = Identity("worker", redacted(self._settings.source), self._bridge.stream, self._settings.group)
        with contextlib.ExitStack() as stack:
            self._consumer = stack.enter_context(identity).client_id
            stack.callback(self._client.close)
            stack.callback(self._sink.close)
            serve_health(stack, self._bridge, health=self.health, samples=self.samples)
            self._until_possible(self._prepare)
            self._notifier.ready(self._name)
            self._own_pending()
            while not self._stop.is_set:
                self._until_possible(self._turn)
                self._notifier.beat(self.books.balance())
        logger.info("%s", self.books.balance())
        return 0

    # -- one turn ----------------------------------------------------------------------------------

    def _prepare(self) -> None:
        self._sink.open()
        with self._redis() as client:
            self._make_group(client)

    def _make_group(self, client: Any) -> None:
        try:
            client.xgroup_create(self._bridge.stream, self._settings.group, id="0", mkstream=True)
        except Exception as error:
            if "BUSYGROUP" not in str(error):
                raise

    def _own_pending(self) -> None:
        """Settle the entries that an earlier run of this worker had read and not acknowledged."""
        after = "0"
        while not self._stop.is_set:
            entries: list[StreamEntry] | None = self._until_possible(lambda: self._read(after))  # noqa: B023 - called now
            if not entries:
                return
            self._until_possible(lambda: self._settle(entries))  # noqa: B023 - as above
            after = entries[-1][0]

    def _turn(self) -> None:
        now = time.monotonic()
        if now - self._claimed_at >= min(self._settings.claim_after, 5.0):
            self._claimed_at = now
            self._settle(self._claim())
        self._settle(self._read(">"))
        self._trim_if_due()
        if now - self._logged_at >= self._bridge.stats_interval:
            self._logged_at = now
            logger.info("%s", self.books.balance())

    def _read(self, after: str) -> list[StreamEntry]:
        with self._redis() as client:
            found = client.xreadgroup(
                self._settings.group,
                self._consumer,
                {self._bridge.stream: after},
                count=self._bridge.batch_size,
                block=BLOCK_MS if after == ">" else None,
            )
        return list(entries_of(found))

    def _claim(self) -> list[StreamEntry]:
        with self._redis() as client:
            found = client.xautoclaim(
                self._bridge.stream,
                self._settings.group,
                self._consumer,
                min_idle_time=round(self._settings.claim_after * 1000),
                count=self._bridge.batch_size,
            )
        entries = [entry for entry in found[1] if entry[1]]
        if entries:
            logger.warning("took over %d entries that another worker had not acknowledged", len(entries))
        return entries

    def _settle(self, entries: list[StreamEntry]) -> None:
        """Commit entries, acknowledge them, and publish live events.

        An entry without fields was trimmed after this worker had read it: there is nothing left to store.
        """
        trimmed = [name for name, fields in entries if not fields]
        entries = [entry for entry in entries if entry[1]]
        if trimmed:
            logger.warning("%d entries were removed from the stream before they were stored", len(trimmed))
            with self._redis() as client:
                client.xack(self._bridge.stream, self._settings.group, *trimmed)
        if not entries:
            return
        self.books.take(len(entries))
        metrics: list[Metric] = []
        letters: list[DeadLetter] = []
        for name, fields in entries:
            try:
                metrics.append(metric_of(name, fields))
            except (KeyError, ValueError) as error:
                letters.append(letter_of(fields, error, self._bridge.topic))
        if not self._commit(MetricBatch(metrics, letters)):
            return
        with self._redis() as client:
            client.xack(self._bridge.stream, self._settings.group, *(name for name, _ in entries))
            self.books.acknowledged += len(entries)
            self._publish(client, metrics)

    def _commit(self, batch: MetricBatch) -> bool:
        """Commit the batch, or its parts one by one if the sink refuses it. Return False if stopped first."""
        try:
            committed: Committed | None = self._until_possible(lambda: self._sink.commit(batch))
        except SinkRefused as error:
            return all(self._commit(part) for part in split(batch, error, self._bridge.topic))
        if committed is None:
            return False
        reasons = Counter(letter.reason for letter in batch.letters)
        self.books.settle(stored=committed.stored, duplicate=committed.duplicate, reasons=reasons)
        return True

    def _publish(self, client: Any, metrics: Sequence[Metric]) -> None:
        if not self._bridge.live or client.exists(f"{tagged(self._bridge.stream)}:live"):
            return
        pipeline = client.pipeline(transaction=False)
        for metric in metrics:
            pipeline.publish(f"metrics:{metric.tenant_id}", encode_json(json_record(metric)))
        pipeline.execute()

    def _trim_if_due(self) -> None:
        now = time.monotonic()
        if now - self._trimmed_at >= TRIM_SECONDS:
            self._trimmed_at = now
            self._trim()

    def _trim(self) -> None:
        """Remove the entries that every consumer group has read and acknowledged, and no others; measure the lag."""
        stream = self._bridge.stream
        with self._redis() as client:
            groups = {group["name"]: group for group in client.xinfo_groups(stream)} if client.exists(stream) else {}
            own = groups.get(self._settings.group)
            if own is None:  # it is still to be created, and must then get all entries
                return
            self._waiting = {"pending": own["pending"], "lag": own.get("lag")}
            oldest = []
            for name, group in groups.items():
                pending = client.xpending(stream, name)
                oldest.append(pending["min"] if pending["pending"] else following(group["last-delivered-id"]))
            # LIMIT 0: without it Redis removes at most 10,000 entries per call
            client.xtrim(stream, minid=min(oldest, key=order), approximate=True, limit=0)

    # -- health ------------------------------------------------------------------------------------

    def health(self) -> Health:
        """Return what is wrong. Call it from any thread."""
        silent = time.monotonic() - self._progress_at
        not_live = [f"the worker made no progress for {silent:.0f} s"] if silent > LIVE_SECONDS else []
        not_ready = [*not_live, self._blocked] if self._blocked else list(not_live)
        return Health(not_live, [*not_ready, "stopping"] if self._stop.is_set else not_ready)

    def samples(self) -> list[Sample]:
        """Return the samples for Prometheus. Call it from any thread."""
        ready = not self.health().not_ready
        found = [
            *book_samples(self.books),
            Sample("ready", "1 while metrics can flow", "gauge", float(ready)),
            Sample("resident_memory_bytes", "Resident memory", "gauge", resident_bytes()),
        ]
        for name, number in self._waiting.items():
            if number is not None:  # Redis cannot count over removed entries, nor before version 7
                found.append(Sample(f"{name}_entries", _WAITING[name], "gauge", number))
        return found

    # -- failures ----------------------------------------------------------------------------------

    def _until_possible(self, action: Any) -> Any:
        """Repeat `action` until it succeeds. Return None if stopped first."""
        wait = RETRY_FIRST
        while True:
            self._progress_at = time.monotonic()
            try:
                result = action()
            except SinkUnavailable as error:
                self.books.retries += 1
                self._blocked = str(error)
                logger.warning("trying again in %.1f s: %s", wait, error)
            else:
                self._blocked = ""
                return result
            if self._stop.wait(wait):
                return None
            wait = min(RETRY_LONGEST, wait * 2)
            with contextlib.suppress(SinkUnavailable):  # Redis is unreachable too: the next turn reports it
                self._trim_if_due()

    @contextlib.contextmanager
    def _redis(self) -> Iterator[Any]:
        with translated(self._name):
            try:
                yield self._client
            except Exception as error:
                if "NOGROUP" not in str(error):
                    raise
                logger.warning("%s or its group %s was removed: creating it again", self._name, self._settings.group)
                self._make_group(self._client)
                raise
