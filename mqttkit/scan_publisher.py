"""The scan publisher: advertisements from a source to messages of a client, counted by what became of each.

The source runs in a thread of its own and only ever puts into a bounded queue, from which the oldest is dropped: a
slow broker never blocks the scanner, and while the broker is away nothing is kept.
"""

from __future__ import annotations

import functools
import json
import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field

from mqttkit.client import MqttClient, Receipt
from mqttkit.client.control import connection_number
from mqttkit.errors import MqttkitError
from mqttkit.messages import Outcome, Will
from mqttkit.scanner import Source
from mqttkit.scanner.advertisement import Advertisement, format_timestamp, manufacturer_fields
from mqttkit.settings import PublisherSettings
from mqttkit.stop import Stop
from mqttkit.topics import check_scanner_id, check_template, fill_template

log = logging.getLogger(__name__)

PLACEHOLDERS = ("scanner_id", "mac_address")
FLUSH_SECONDS = 5.0
ERROR_INTERVAL = 1.0
"""Seconds between log lines about publishes that failed."""
LOSSLESS_WAIT = 5.0
"""Seconds that an unpaced replay waits for room in the client."""
ONLINE, OFFLINE = b"online", b"offline"

_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), check_circular=False).encode


def format_advertisement(advertisement: Advertisement, scanner_id: str) -> bytes:
    """Return the message's payload, UTF-8 JSON as docs/advertisement.schema.json has it."""
    manufacturer, earlier = manufacturer_fields(advertisement)
    fields: dict[str, object] = {
        "scanner_id": scanner_id,
        "mac_address": advertisement.mac_address,
        "rssi": advertisement.rssi,
        "timestamp": format_timestamp(advertisement.timestamp),
        "manufacturer_data": manufacturer,
        "service_uuids": advertisement.service_uuids,
        "local_name": advertisement.local_name,
    }
    if advertisement.service_data:
        fields["service_data"] = {uuid: data.hex() for uuid, data in advertisement.service_data.items()}
    if advertisement.tx_power is not None:
        fields["tx_power"] = advertisement.tx_power
    if earlier:
        fields["manufacturer_data_earlier"] = earlier
    return _encode(fields).encode()


class DropOldestQueue:
    """A bounded queue between two threads: `put` drops the oldest and never blocks, or waits where `lossless`."""

    def __init__(self, size: int, *, lossless: bool = False) -> None:
        self.dropped = 0
        self._size = size
        self._lossless = lossless
        self._items: deque[Advertisement] = deque()
        self._condition = threading.Condition()
        self._ended = False
        self._idle = False

    def put(self, items: list[Advertisement]) -> None:
        """Add items; drop the oldest, or wait where lossless, when there is no room."""
        with self._condition:
            if self._lossless:
                self._condition.wait_for(lambda: not self._items or self._ended)
            self._items.extend(items)
            surplus = 0 if self._lossless else len(self._items) - self._size
            for _ in range(surplus):
                self._items.popleft()
            self.dropped += max(surplus, 0)
            if self._idle:
                self._condition.notify_all()

    def end(self) -> None:
        """Say that nothing more will come, or that nobody takes any more."""
        with self._condition:
            self._ended = True
            self._condition.notify_all()

    def take(self, timeout: float) -> list[Advertisement] | None:
        """Return everything that waits, after at most `timeout` seconds; None at the end."""
        with self._condition:
            if not self._items and not self._ended:
                self._idle = True
                self._condition.wait(timeout)
                self._idle = False
            items = list(self._items)
            self._items.clear()
            if self._lossless:
                self._condition.notify_all()
            return None if not items and self._ended else items


@dataclass
class ScanTotals:
    """What a scan publisher counted."""

    scanned: int = 0
    """Advertisements that the source gave."""
    published: int = 0
    """Messages that the client took."""
    dropped: Counter[str] = field(default_factory=Counter)
    """Advertisements that were not published, by cause."""
    failed: Counter[str] = field(default_factory=Counter)
    """Messages that the client took and that were then denied or lost, by outcome."""
    withheld: Counter[str] = field(default_factory=Counter)
    """Advertisements that the source heard and did not give, by cause: filters, and what was no advertisement."""

    @property
    def lost(self) -> int:
        """Advertisements given that reached no subscriber, as far as that is known."""
        return self.dropped.total() + self.failed.total()

    def __str__(self) -> str:
        text = f"{self.scanned} scanned, {self.published} published, {self.lost} lost"
        causes = _list_counts(self.dropped + self.failed)
        withheld = _list_counts(self.withheld)
        return f"{text}{causes and f' ({causes})'}{withheld and f', withheld by filters: {withheld}'}"


def _list_counts(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {cause}" for cause, count in counts.most_common() if count)


class StatusTopic:
    """Keeps a retained `online` or `offline` on a topic: by will, after each connection, and as the radio goes."""

    def __init__(self, topic: str) -> None:
        self.topic = topic
        self._shown: tuple[bytes, int] | None = None

    @property
    def will(self) -> Will:
        """What the broker publishes where the client vanishes."""
        return Will(self.topic, OFFLINE, qos=1, retain=True)

    def show(self, client: MqttClient, *, online: bool) -> Receipt | None:
        """Publish the state where it, or the connection, is another than before; None where it is the same."""
        state = (ONLINE if online else OFFLINE, connection_number(client))
        if state == self._shown or not client.connected:
            return None
        self._shown = state
        return client.publish(self.topic, state[0], qos=1, retain=True)


class ScanPublisher:
    """Publishes what a source hears, until the source ends, `stop` is called or the client gives up."""

    def __init__(
        self,
        client: MqttClient,
        settings: PublisherSettings,
        scanner_id: str,
        *,
        lossless: bool = False,
        status: StatusTopic | None = None,
        on_publish: Callable[[Advertisement, bytes], None] | None = None,
    ) -> None:
        self._client = client
        self._settings = settings
        self._scanner_id = check_scanner_id(scanner_id)
        self._template = check_template(settings.topic, PLACEHOLDERS)
        self._qos = client.settings.client.qos if settings.qos is None else settings.qos
        self._wait = LOSSLESS_WAIT if lossless else 0.0
        self._queue = DropOldestQueue(settings.queue_size, lossless=lossless)
        self._topic = functools.lru_cache(maxsize=4_096)(self._fill_topic)
        self._status = status
        self._on_publish = on_publish
        self._source: Source | None = None
        self._stopping = Stop()
        self._totals = ScanTotals()
        self._errors = _LimitedErrors()
        self._next_stats = 0.0
        self._last = (0.0, 0)
        self._error: BaseException | None = None

    def run(self, source: Source) -> ScanTotals:
        """Publish until the end; flush at most 5 s; return the totals.

        Blocks. Raises what the source raised, after what it gave is flushed, or why the client has given up.
        """
        self._source = source
        if self._stopping.is_set:
            source.close()
        self._last = (time.monotonic(), 0)
        self._next_stats = self._last[0] + self._settings.stats_interval
        thread = threading.Thread(target=self._scan, args=(source,), name="scanner", daemon=True)
        thread.start()
        try:
            self._publish_all(source)
        finally:
            source.close()
            self._queue.end()
            thread.join(FLUSH_SECONDS)
        if self._status is not None:
            self._status.show(self._client, online=False)
        self._client.flush(FLUSH_SECONDS)
        if self._error is not None:
            raise self._error
        if self._client.given_up and self._client.failure is not None:
            raise self._client.failure
        return self.totals()

    def stop(self) -> None:
        """End `run` soon, even one that has not begun; any thread or signal handler may call it."""
        self._stopping.set()
        if self._source is not None:
            self._source.close()

    def totals(self) -> ScanTotals:
        """Return the counts up to now."""
        totals = self._totals
        result = ScanTotals(totals.scanned, totals.published, Counter(totals.dropped))
        if self._queue.dropped:
            result.dropped["scan queue full"] = self._queue.dropped
        if self._source is not None:
            result.withheld.update(self._source.dropped)
        published = self._client.stats.published
        for outcome in (Outcome.DENIED, Outcome.LOST):
            result.failed[outcome.value] = published[outcome]
        return result

    # --- inside -------------------------------------------------------------------------------------------

    def _scan(self, source: Source) -> None:
        """Run the source, in its thread."""
        totals, put = self._totals, self._queue.put
        try:
            for batch in source.batches():
                totals.scanned += len(batch)
                put(batch)
        except BaseException as error:  # noqa: BLE001  # raised again where the caller waits
            self._error = error
        finally:
            self._queue.end()

    def _publish_all(self, source: Source) -> None:
        while not self._client.given_up:
            batch = self._queue.take(0.5)
            if batch is None:
                return
            for advertisement in batch:
                self._publish(advertisement)
            self._report(source)
            if self._stopping.is_set and not batch:
                return

    def _publish(self, advertisement: Advertisement) -> None:
        try:
            topic = self._topic(advertisement.mac_address)
            payload = format_advertisement(advertisement, self._scanner_id)
        except (MqttkitError, ValueError) as error:
            self._totals.dropped["invalid"] += 1
            self._errors.add(f"invalid advertisement of {advertisement.mac_address!r} skipped: {error}")
            return
        if self._on_publish is not None:
            self._on_publish(advertisement, payload)
        receipt = self._client.publish(topic, payload, qos=self._qos, wait=self._wait)
        if receipt.outcome is Outcome.DROPPED:
            self._totals.dropped[receipt.reason] += 1
            self._errors.add(f"publish failed: {receipt.reason}")
            return
        self._totals.published += 1
        log.debug("published %s", topic)

    def _fill_topic(self, mac_address: str) -> str:
        return fill_template(self._template, {"scanner_id": self._scanner_id, "mac_address": mac_address})

    def _report(self, source: Source) -> None:
        """Say what failed, once a second, and the statistics, once in `stats_interval` seconds."""
        now = time.monotonic()
        if self._status is not None:
            self._status.show(self._client, online=source.scanning)
        denied = self._client.stats.published[Outcome.DENIED]
        self._errors.report(now, denied)
        if now < self._next_stats:
            return
        totals = self.totals()
        since, before = self._last
        log.info("%.1f messages/s; %s", (totals.published - before) / max(now - since, 0.001), totals)
        self._last = (now, totals.published)
        self._next_stats = now + self._settings.stats_interval


class _LimitedErrors:
    """Errors for the log: at most one line a second, with a count."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._next = 0.0
        self._denied = 0

    def add(self, text: str) -> None:
        self._counts[text if len(self._counts) < 100 else "more errors of other kinds"] += 1

    def report(self, now: float, denied: int) -> None:
        if denied > self._denied:
            self._counts["publish denied by the broker"] += denied - self._denied
            self._denied = denied
        if not self._counts or now < self._next:
            return
        self._next = now + ERROR_INTERVAL
        log.error("%s", "; ".join(f"{text} ({count} times)" for text, count in self._counts.most_common(3)))
        self._counts.clear()
